"""Which methods tell objects apart: the metric by a literal loop, and the page made from a run of the one engine."""

from __future__ import annotations

import re

import pytest
import torch
from typer.testing import CliRunner

import seewhy
from seewhy.bench.execute.run import run
from seewhy.bench.plan import Plan
from seewhy.bench.presets import plan_text
from seewhy.bench.report import RunData
from seewhy.bench.report.leaderboard import compute_leaderboard
from seewhy.cli.bench import app
from seewhy.data.scenes import Scenes
from seewhy.metrics import ObjectChoice


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    settings = ['models=["scenes_cnn"]', 'methods=["grad_cam", "lafam", "cdam"]', 'protocol.device="cpu"']
    plan = Plan.parse(plan_text("scenes_objects", n=6, settings=settings))
    return run(plan, tmp_path_factory.mktemp("objects") / "run").folder


def test_the_score_says_where_the_maximum_and_the_mass_lie():
    objects = torch.zeros(2, 4, 4, dtype=torch.bool)
    objects[0, :2, :2] = True
    objects[1, 2:, 2:] = True
    map = torch.tensor([[3.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, -9, 0, 0]])
    maps = torch.stack([map, map, torch.ones(4, 4), -torch.eye(4) - 1])
    masks = torch.stack([objects[0], objects[1], objects[0], objects[0]])
    found = ObjectChoice().measure(maps, masks=masks, objects=[objects] * 4)
    assert found.value.tolist() == pytest.approx([1, -1, 0, 0])
    parts = {name: values.tolist() for name, values in found.parts.items()}
    assert parts["right"] == pytest.approx([1, 0, 4 / 16, 2 / 12])
    assert parts["wrong"] == pytest.approx([0, 1, 4 / 16, 2 / 12])
    assert parts["mass_right"] == pytest.approx([0.75, 0.25, 4 / 16, 0])
    assert parts["mass_wrong"] == pytest.approx([0.25, 0.75, 4 / 16, 0])


def test_the_run_holds_the_literal_shares(folder):
    model, scenes, hits = seewhy.load_model("scenes_cnn", device="cpu"), Scenes("multi"), {}
    rows = RunData(folder).query(
        'SELECT "index", target, value FROM scores WHERE method = ? AND metric = ?', "grad_cam", "object_choice.right"
    )
    for index, target, value in rows:
        scene = scenes[index]
        label = model.class_names.index(target)
        explanation = seewhy.explain(model, scene.image, "grad_cam", label)
        row, col = divmod(int(explanation.resized((96, 96)).argmax()), 96)
        hits[index, target] = (bool(scene.masks[scene.labels.index(label), row, col]), value)
    assert len(hits) == sum(len(scenes[index].labels) for index in {index for index, *_ in rows})
    assert all(expected == value for expected, value in hits.values())


def test_the_page_has_the_intervals_over_images_and_who_breaks_a_promise(folder, tmp_path):
    page = tmp_path / "docs" / "scenes.md"
    result = CliRunner().invoke(app, ["scenes", "--run", str(folder), "-o", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text("utf-8")
    scores = {(s.method, s.metric): s for s in compute_leaderboard(RunData(folder))}
    for method, title, for_class in (("grad_cam", "Grad-CAM", True), ("lafam", "LaFAM", False)):
        (line,) = re.findall(rf"^\| {title} \|.*$", text, re.MULTILINE)
        score = scores[method, "object_choice"]
        assert f"| {score.mean:.1%} ± {(score.high - score.low) / 2:.1%} |" in line
        verdict = ("yes" if score.low > 0 else "no") + ("" if for_class else " (label-free)")
        assert line.endswith(f"| {verdict} |")
    assert "CDAM was not run on scenes_cnn" in text
    assert "`seewhy bench scenes --n 6 -o " in text
