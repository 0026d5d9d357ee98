"""`seewhy.evaluate`: the engine of plans, with models and data that Python has."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from bench.plans import SMALL, table
from torch import nn

import seewhy
from seewhy import bench
from seewhy.bench.plan import Plan
from seewhy.bench.store import open_run
from seewhy.data import Scenes
from seewhy.errors import OptionError

METHODS = ["grad_cam", "lafam"]
METRICS = ["pointing_game", "sparseness"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    model = seewhy.load_model("scenes_cnn", device="cpu")
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    return seewhy.evaluate(
        {"mine": model}, METHODS, Scenes("multi"), METRICS, folder=folder, n=12, batch_size=6, progress=False
    )


def test_a_model_and_a_dataset_of_ones_own_give_the_numbers_of_the_plan(result, tmp_path):
    text = result.plan.text.replace('"mine"', '"scenes_cnn"')
    by_plan = bench.run(Plan.parse(text), tmp_path / "plan")
    wanted = [{k: v for k, v in row.items() if k != "model"} for row in table(by_plan)]
    got = [{k: v for k, v in row.items() if k != "model"} for row in table(open_run(result.folder))]
    assert got == wanted
    assert {row["model"] for row in table(open_run(result.folder))} == {"mine"}


def test_what_came_out_as_tables_figure_and_page(result, tmp_path):
    frame = result.to_pandas()
    assert {"mine"} == set(frame.model)
    mean = frame[(frame.method == "lafam") & (frame.metric == "sparseness")].value.mean()
    rows = {(row["method"], row["metric"]): row for row in result.summary()}
    assert rows["lafam", "sparseness"]["mean"] == pytest.approx(mean)
    assert rows["lafam", "sparseness"]["low"] < mean < rows["lafam", "sparseness"]["high"]
    assert {row["rank"] for row in rows.values()} >= {1, 2, None}
    assert "Grad-CAM" in str(result)
    assert "<td>mine</td>" in result._repr_html_()
    axes = result.plot("sparseness")
    assert axes.get_yticklabels()[0].get_text() in ("LaFAM", "Grad-CAM")
    assert "Sparseness" in axes.get_xlabel()
    with pytest.raises(OptionError, match="no metric 'auc'; it has pointing_game"):
        result.plot("auc")
    assert result.report(tmp_path / "page.html").stat().st_size > 10_000


def test_the_same_call_again_computes_nothing_and_another_one_is_refused(result, monkeypatch):
    calls = []
    model = seewhy.load_model("scenes_cnn", device="cpu")
    model.module.register_forward_hook(lambda *_: calls.append(1))
    options = {"folder": result.folder, "n": 12, "batch_size": 6, "progress": False}
    seewhy.evaluate({"mine": model}, METHODS, Scenes("multi"), METRICS, **options)
    assert not calls
    with pytest.raises(OptionError, match="another plan"):
        seewhy.evaluate({"mine": model}, "lafam", Scenes("multi"), METRICS, **options)
    with pytest.raises(OptionError, match=r"has data, mine from a Python session; go on there: seewhy\.evaluate"):
        bench.resume(result.folder)
    nn.init.zeros_(model.module.fc.weight)
    with pytest.raises(seewhy.SeewhyError, match="other weights"):
        seewhy.evaluate({"mine": model}, METHODS, Scenes("multi"), METRICS, **options)


def test_the_model_is_as_before_where_the_plan_changes_how_it_sees(tmp_path):
    model = seewhy.load_model("scenes_cnn", device="cpu")
    before = model.preprocess
    options = {"n": 1, "preprocess": {"crop": "squash", "resize": [96, 96]}, "progress": False}
    seewhy.evaluate(model, "lafam", "scenes", "sparseness", folder=tmp_path / "run", **options)
    assert model.preprocess is before


def test_a_module_is_wrapped_and_anything_else_is_refused(tmp_path):
    module = seewhy.load_model("scenes_cnn", device="cpu").module
    result = seewhy.evaluate(module, "lafam", "scenes", "sparseness", n=1, folder=tmp_path / "run", progress=False)
    assert len(result.to_arrow()) == 3  # LaFAM and two reference maps
    with pytest.raises(OptionError, match="cannot evaluate a int"):
        seewhy.evaluate([3], "lafam", "scenes", "sparseness")


def test_a_run_in_a_pipe_has_lines_and_says_how_to_go_on_when_it_is_stopped(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(SMALL.replace("n = 8", "n = 400"))
    command = [sys.executable, "-m", "seewhy", "bench", "run", str(plan), "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    rows = tmp_path / "run" / "rows"
    while not (rows.is_dir() and any(rows.iterdir())):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert "600 parts: 3 maps of each image, 400 images in 200 batches" in said
    assert said.rstrip().endswith(f"go on: seewhy bench resume {tmp_path / 'run'}")
