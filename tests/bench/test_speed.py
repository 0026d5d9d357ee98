"""`seewhy bench speed`: clocks, memory and the table, on a model of seconds."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from seewhy.bench.speed.clock import timed
from seewhy.bench.speed.memory import LiveTensors, peak_bytes
from seewhy.bench.speed.table import as_markdown, measure
from seewhy.bench.speed.tasks import BUDGETS
from seewhy.cli import app
from seewhy.errors import OptionError
from seewhy.methods import METHODS

CPU = torch.device("cpu")


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_run_of_three_forwards_has_the_ratio_three():
    timing = timed({"three": lambda: busy(0.03), "one": lambda: busy(0.01)}, lambda: busy(0.01), CPU, 3)
    assert timing["three"].ratio == pytest.approx(3, rel=0.2)
    assert timing["one"].low <= timing["one"].ratio <= timing["one"].high
    assert timing["three"].repeats == 3


def test_memory_is_what_lives_at_the_same_time():
    given = torch.zeros(1000, 1000)  # 4 MB, there before

    def run():
        first = given + 1
        view = first[:10]
        del first
        return (view * 2, given * 3, given * 4)  # the view keeps its storage

    assert peak_bytes(run, CPU) == pytest.approx(12e6, rel=0.01)


def test_what_a_graph_keeps_counts():
    net = nn.Sequential(*[nn.Sequential(nn.Linear(500, 500), nn.ReLU()) for _ in range(4)]).requires_grad_(False)
    x = torch.zeros(500, 500)
    with LiveTensors() as without:
        net(x)
    with LiveTensors() as with_graph:
        net(x.clone().requires_grad_())
    assert without.peak == pytest.approx(3e6, rel=0.01)  # what a layer gets, gives, and what its ReLU makes of it
    assert with_graph.peak >= 5e6  # what every ReLU gave is kept


@pytest.fixture(scope="module")
def measured():
    return measure(["scenes_vit"], only=["cdam", "metrics of a map"], repeats=1, peers=False)


def test_every_task_has_a_row_with_its_budget(measured):
    rows = {row["task"]: row for row in measured["rows"]}
    assert {"cdam", "integrated_cdam", "smooth_cdam at norm1", "cdam, 5 classes", "explain(cdam), top-1"} <= set(rows)
    assert rows["cdam"]["budget"] == BUDGETS["cdam"][0].ratio
    for row in rows.values():
        assert row["low"] <= row["ratio"] <= row["high"]
        assert row["maps_per_second"] > 0
        assert row["library"] == "seewhy"
    assert measured["machine"]["threads"] == 1
    assert "captum" in measured["versions"]
    assert json.loads(json.dumps(measured)) == measured


def test_the_page_marks_what_is_over_its_budget(measured):
    first = {**measured["rows"][0], "ratio": 7.0, "budget": 2.0}
    page = as_markdown({**measured, "rows": [first, *measured["rows"][1:]]})
    assert "7.00 **over** |" in page
    assert page.count("| cdam |") == 1
    assert "torch" in page
    assert ", 1 of " in page  # threads


def test_methods_with_a_budget_exist():
    assert set(BUDGETS) <= set(METHODS)


def test_impossible_requests_are_refused():
    with pytest.raises(OptionError, match="1 or more"):
        measure(["scenes_cnn"], repeats=0)
    with pytest.raises(OptionError, match="--only"):
        measure(["scenes_cnn"], only=["no such task"], peers=False)


def test_the_command_prints_json_and_measures_peers_in_the_same_run(tmp_path):
    pytest.importorskip("captum")
    arguments = ["bench", "speed", "-m", "scenes_cnn", "--only", "saliency", "--repeats", "1", "--json"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "speed.md")])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert {row["library"] for row in rows if row["task"] == "saliency"} == {"seewhy", "captum"}
    assert "| saliency | captum |" in (tmp_path / "speed.md").read_text("utf-8")
