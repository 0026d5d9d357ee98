"""`seewhy segment`, with the small models of the scenes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from seewhy.cli import main
from seewhy.core.boxes import Box, tight_box
from seewhy.data.scenes import Scenes


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `seewhy segment` in this process: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["seewhy", "segment", *map(str, words), "-m", "scenes_cnn"])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


@pytest.fixture
def scenes(tmp_path):
    """Two scenes as files, and what is in them."""
    result = {tmp_path / f"{i}.png": Scenes("multi")[i] for i in (3, 7)}
    for path, scene in result.items():
        scene.image.save(path)
    return result


def test_segments_add_up_and_an_object_gets_its_box(run, scenes, tmp_path):
    code, out, _ = run(*scenes, "-o", "out", "--json")
    rows, best = json.loads(out), []
    assert code == 0
    for row, (path, scene) in zip(rows, scenes.items(), strict=True):
        assert row["image"] == str(path)
        assert row["size"] == [96, 96]
        assert sum(s["share"] for s in row["segments"]) == pytest.approx(1, abs=1e-3)
        shares = [s["share"] for s in row["segments"]]
        assert shares == sorted(shares, reverse=True)
        boxes = [Box(*part["box"]) for s in row["segments"] for part in s["parts"]]
        assert all(6 <= b.left < b.right <= 90 and 6 <= b.top < b.bottom <= 90 for b in boxes)  # 14 px of 224
        assert row["chosen"]["box"] in [part["box"] for s in row["segments"] for part in s["parts"]]
        best.append(max(b.iou(tight_box(mask)) for b in boxes for mask in scene.masks))
        assert Image.open(tmp_path / row["figure"]).width > 1500  # image, segments, five clusters
        assert row["options"]["balance"] == "equal"
    assert max(best) > 0.6, best


def test_joint_is_one_figure_with_the_same_clusters(run, scenes, tmp_path):
    code, out, _ = run(*scenes, "--joint", "--k", "3", "-o", "out", "--json")
    rows = json.loads(out)
    assert code == 0
    assert {row["figure"] for row in rows} == {"out/segments.png"}
    total = [sum(s["share"] for row in rows for s in row["segments"] if s["cluster"] == c) for c in range(3)]
    assert total == sorted(total, reverse=True)  # numbered by size over both
    assert Image.open(tmp_path / "out/segments.png").height > 550  # two rows


def test_options_reach_the_method(run, scenes):
    path = next(iter(scenes))
    _, out, _ = run(
        path, "--k", "auto", "--layer", "layer3", "-O", "balance=channels", "--min-area", "0", "--border", "0", "--json"
    )
    (row,) = json.loads(out)
    assert row["options"]["k"] is None
    assert row["options"]["balance"] == "channels"  # the command's own default is equal
    assert "layer3" in row["options"]["layers"]
    assert 3 <= len(row["segments"]) <= 10
    labels = sum(part["area"] for s in row["segments"] for part in s["parts"])
    assert labels == 96 * 96  # nothing dropped


def test_graph_cut_outlines_an_object(run, scenes, tmp_path):
    path, scene = next(iter(scenes.items()))
    code, out, _ = run(path, "--graphcut", "-M", "grad_cam", "-t", scene.class_names[0], "-o", "out", "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert row["target"]["label"] == scene.class_names[0]
    assert Box(*row["box"]).iou(tight_box(scene.masks[0])) > 0.5
    assert Image.open(tmp_path / row["figure"]).width > 700


def test_bad_images_cost_only_themselves(run, scenes, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for way in ([], ["--joint"], ["--graphcut", "-M", "grad_cam"]):
        code, out, err = run("bad.png", *scenes, *way, "--k", 4)
        assert code == 3
        assert err.count("error: bad.png") == 1
        assert out.count("→") == 2
    assert run("bad.png", "--joint")[0] == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--k", "many"), 2, "must be a number or auto"),
        (("--k", "1"), 2, "use 2 or more"),
        (("--k", "9", "-O", "size=(2,2)"), 2, "only 4 positions"),
        (("--layer", "layer9"), 2, "unknown layer"),
        (("-O", "color=red"), 2, "no option 'color'"),
        (("--border", "-1"), 2, "negative"),
        (("--graphcut", "-M", "no_such"), 2, "unknown method"),
    ],
)
def test_mistakes_have_one_line_and_a_code(run, scenes, words, code, message):
    got, _, err = run(next(iter(scenes)), *words)
    assert got == code
    assert message in err
    assert err.count("\n") == 1


def test_an_image_in_which_nothing_differs_is_reported(run, tmp_path, monkeypatch):
    from seewhy.methods import NAVE

    Image.fromarray(np.full((96, 96, 3), 90, np.uint8)).save(tmp_path / "flat.png")
    explore = NAVE.explore
    monkeypatch.setattr(NAVE, "explore", lambda self, x: [t * 0 for t in explore(self, x)])
    code, _, err = run("flat.png")
    assert code == 8
    assert "same everywhere" in err
