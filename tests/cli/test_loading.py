"""Commands open a model as their options say, run a person's own file if asked, and cope with names of any kind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seewhy.cli import common, main
from seewhy.cli.loading import Loading
from seewhy.errors import ModelError, OptionError

OWN = """
import torch
from neighbor import CHANNELS
from torch import nn

def make():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(CHANNELS, 8, 3, 2, 1), nn.ReLU())
    return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

made = make()

def breaks():
    raise KeyError("weights")

number = lambda: 3
"""


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["seewhy", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def own(tmp_path) -> Path:
    (tmp_path / "neighbor.py").write_text("CHANNELS = 1\n")
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path / "mine.py"


def test_a_file_of_ones_own_is_run_and_said_to_be(own, run, tmp_path) -> None:
    levels = np.random.default_rng(0).integers(0, 4096, (40, 60), dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "ct.png")
    (tmp_path / "names.json").write_text(json.dumps({"no": 0, "maybe": 1, "yes": 2}))
    options = ("--class-names", "names.json", "--size", 32, "--levels", "0:4095", "--mean", 0.5, "--std", "0.25")
    code, out, err = run(
        *("explain", "ct.png", "-m", "mine.py:make", *options),
        *("-M", "grad_cam", "-t", "yes", "-o", "out", "--json", "--on-image"),
    )
    assert (code, err) == (0, "running mine.py for make\n")
    (row,) = json.loads(out)
    assert (row["model"], row["target"]["label"], row["image_size"]) == ("mine.py:make", "yes", [40, 60])
    assert row["box"][2] - row["box"][0] < 60
    assert Image.open(tmp_path / "out" / "ct" / "grad_cam_yes_on_image.png").size == (60, 40)
    model = Loading(class_names=str(tmp_path / "names.json"), size="32", levels="0:4095", mean="0.5", std="0.25").model(
        f"{own}:made"
    )
    x = model.preprocess_images(tmp_path / "ct.png")
    logit = model.module(x)[0, 2].item()
    assert row["target"]["logit"] == pytest.approx(logit, rel=1e-5)
    assert x.max() <= 2.0  # (1 - 0.5) / 0.25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("breaks", r"failed with KeyError: 'weights' \(mine.py, line 14\)"),
        ("number", "gives int, not a torch module"),
        ("nothing", "has no 'nothing'"),
    ],
)
def test_what_fails_in_ones_own_file_is_one_line(own, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Loading().model(f"{own}:{name}")


def test_no_plan_runs_a_file(own, monkeypatch) -> None:
    """`FILE.py:NAME` is for the command line only: whoever writes it there means it."""
    import seewhy

    monkeypatch.setattr("seewhy.models.load.nearest", lambda name: [])
    with pytest.raises(seewhy.errors.UnknownNameError):
        seewhy.load_model(f"{own}:breaks")


def test_options_reach_load_model(monkeypatch) -> None:
    got = {}
    monkeypatch.setattr("seewhy.models.load.load_model", lambda name, **options: got.update(options, name=name))
    Loading(architecture="timm/x", mean="0.1,0.2,0.3", size="384x192", crop="0.9", head=Path("h.pth")).model("a.pth")
    assert got["preprocess"] == {"mean": (0.1, 0.2, 0.3), "size": (384, 192), "crop": 0.9}
    assert (got["architecture"], got["head"], got["name"]) == ("timm/x", Path("h.pth"), "a.pth")
    Loading(crop="squash").model("a.pth")
    assert got["preprocess"] == {"crop": "squash"}
    for wrong in ({"mean": "x"}, {"size": "0"}, {"size": "big"}, {"levels": "3"}, {"levels": "1:2:3"}):
        with pytest.raises(OptionError, match="is not accepted; write for example"):
            Loading(**wrong).model("a.pth")


def test_info_says_how_images_are_taken(run) -> None:
    code, out, _ = run("info", "scenes_cnn", "--mean", "0.5")
    text = " ".join(out.split())
    assert code == 0
    assert "preprocessing: resize short side to 96, bilinear, center crop 96×96, levels / 255, mean 0.5 each" in text
    assert "mean as given" in text


def test_each_image_has_a_folder_of_its_own_below_the_output(run, cat, tmp_path) -> None:
    names = ["...png", "..png", "a.bmp", "a.png", "a-2.png", os.fsdecode(b"bad_\xff.png"), "y" * 250 + ".png"]
    for name in names:
        cat.save(tmp_path / name, format="png")
    (tmp_path / "empty").mkdir()
    more = ["empty", "", "x" * 300 + ".png", "~nosuchuser.png", "a*.bmp"]
    code, out, err = run("explain", *names, *more, "-m", "scenes_cnn", "-M", "lafam", "-o", "out/x", "--json")
    assert code == 3
    rows = json.loads(out)
    done = [row["folder"] for row in rows if not row["error"]]
    assert len(set(done)) == len(names) + 1
    for folder in done:
        assert (tmp_path / folder).resolve().parent.parent == tmp_path / "out" / "x"
        assert (tmp_path / folder / "manifest.json").is_file()
    assert sum(bool(row["error"]) for row in rows) == 2
    assert err.count("\n") == 2  # the empty folder, the empty name
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


def test_numbers_count_until_a_name_is_free() -> None:
    assert common.number_repeats(["a", "a", "a-2", "a"]) == ["a", "a-2", "a-2-2", "a-3"]
    assert common.folder_names([Path("..."), Path(".."), Path("b. "), Path("ä.png")]) == ["image", "image-2", "b", "ä"]


def test_a_disk_that_is_full_costs_one_image(run, cat, tmp_path, monkeypatch) -> None:
    for name in ("a.png", "b.png"):
        cat.save(tmp_path / name)
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "grid.png").mkdir()  # cannot be written
    code, out, err = run("explain", "a.png", "b.png", "-m", "scenes_cnn", "-M", "lafam", "-o", "out")
    assert code == 1
    assert "a.png" in err
    assert "cannot be written" in err
    assert "b.png" in out


def test_warnings_are_one_line(run, tmp_path) -> None:
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 1000).save(tmp_path / "dark.png")
    _, _, err = run("explain", "dark.png", "-m", "scenes_cnn", "-M", "lafam", "-o", "out")
    assert err.startswith("warning: dark.png has 16 bits")
    assert err.count("\n") == 1


def test_a_device_that_is_not_there_is_one_line(run) -> None:
    for device in ("mps", "cuda:7", "meta", "tpu"):
        if device == "mps" and torch.backends.mps.is_available():
            continue
        code, _, err = run("info", "scenes_cnn", "--device", device)
        assert code == 2
        assert err.startswith("error: there is no device")
