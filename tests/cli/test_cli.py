"""The command line, with the real network that pip brings."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
import toys
from PIL import Image

from seewhy import Explanation
from seewhy.cli import main

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture
def image(cat, tmp_path):
    path = tmp_path / "cat.png"
    cat.save(path)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command line in this process: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["seewhy", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return run


def test_help_is_quick_and_imports_nothing_heavy():
    started = time.perf_counter()
    code = (
        "import sys; sys.argv = ['seewhy', '--help']\nfrom seewhy.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nassert not {'torch', 'matplotlib', 'numpy', 'PIL'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "explain" in done.stdout
    assert "Exit codes" in done.stdout
    assert time.perf_counter() - started < 5  # under 1 s alone; the suite shares two cores


def test_explain_writes_a_grid_and_maps_that_load_again(run, image, tmp_path):
    code, out, _ = run("explain", image, "-M", "lafam", "-M", "grad_cam", "--top", "2", "--json", "-o", "out")
    rows = json.loads(out)
    assert code == 0
    assert [row["method"] for row in rows] == ["lafam", "grad_cam", "grad_cam"]
    assert {"Egyptian cat", "tiger cat"} == {row["target"]["label"] for row in rows[1:]}
    for row in rows:
        explanation = Explanation.load(tmp_path / row["folder"])
        assert list(explanation.attribution.shape) == row["grid"] == [7, 7]
    assert Image.open(tmp_path / "out/cat/grid.png").width > 600


def test_a_folder_run_survives_bad_files_and_says_so(run, cat, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    cat.save(folder / "b.png")
    (folder / "a.png").write_bytes(b"")
    (folder / "c.jpg").write_text("not an image")
    code, out, err = run("explain", folder, "-M", "grad_cam", "-o", "out")
    assert code == 3
    assert "b.png" in out
    assert (tmp_path / "out/b/grid.png").exists()
    assert err.count("error: ") == 2


def test_same_names_from_two_folders_do_not_overwrite_each_other(run, cat, coffee, tmp_path):
    for name, image in (("one", cat), ("two", coffee)):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "x.png")
    assert run("explain", "one", "two", "-M", "lafam", "-o", "out")[0] == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"x", "x-2"}


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (["-t", "taby"], 2, "did you mean 'tabby'"),
        (["-t", "5000"], 4, "0 to 999"),
        (["-M", "grd_cam"], 2, "did you mean 'grad_cam'"),
        (["-M", "cdam"], 6, "these can: "),
        (["--layer", "_blocks.99"], 2, "did you mean '_blocks.9'"),
        (["-O", "relu"], 2, "name=value"),
        (["-O", "steps=3"], 2, "they have: layer, relu"),
        (["--concept", "empty"], 4, "holds no images"),
        (["-m", "eficientnet_lite0"], 2, "efficientnet_lite0'"),
        (["--max-pixels", "1000"], 3, "--max-pixels"),
    ],
)
def test_each_mistake_has_one_line_and_an_exit_code(run, image, tmp_path, words, code, advice):
    (tmp_path / "empty").mkdir()
    got, _, err = run("explain", image, *words)
    assert (got, err.count("\n")) == (code, 1), err
    assert err.startswith("error: ")
    assert advice in err


def test_a_constant_map_is_an_error_row_but_is_still_saved(run, image, tmp_path, monkeypatch):
    model = toys.toy_cnn()
    torch.nn.init.zeros_(model.module.head.weight)
    monkeypatch.setattr("seewhy.cli.loading.Loading.model", lambda *_: model)
    code, out, _ = run("explain", image, "-M", "grad_cam", "-M", "lafam", "-t", "ant", "--json", "-o", "out")
    cam, lafam = json.loads(out)
    assert code == cam["exit_code"] == 8
    assert "0 everywhere" in cam["error"]
    assert lafam["error"] is None
    assert Explanation.load(tmp_path / cam["folder"]).is_constant


def test_compare_makes_one_figure_of_every_method_that_works(run, image, tmp_path):
    code, out, _ = run("compare", image, "-M", "lafam", "-M", "saliency", "-t", "tabby", "--json", "-o", "c.png")
    about = json.loads(out)
    assert code == 0
    assert [m["method"] for m in about["maps"]] == ["lafam", "saliency"]
    assert about["maps"][0]["cost"] == "1 forward up to the layer"
    assert "Karjauv" in about["maps"][0]["citation"]
    assert "whatever the class" in about["maps"][0]["shows"]
    assert Image.open(tmp_path / "c.png").width > 600


def test_methods_models_and_info_list_what_there_is(run):
    code, out, _ = run("methods", "*cdam*", "--json")
    assert code == 0
    assert [m["name"] for m in json.loads(out)] == ["cdam", "concept_cdam", "integrated_cdam", "smooth_cdam"]
    code, out, _ = run("models", "efficientnet_lite*")
    assert (code, out.strip()) == (0, "efficientnet_lite0")
    code, out, _ = run("info", "efficientnet_lite0", "--json")
    facts = json.loads(out)
    assert facts["methods"]["grad_cam"] == ""
    assert "class token" in facts["methods"]["attention_map"]
    assert facts["stages"][-1]["grid"] == [7, 7]
    assert facts["classes"] == 1000
