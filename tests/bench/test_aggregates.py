"""AP@50: what a report says of a whole set, which no map has alone."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from plans import small

from seewhy.bench.execute.run import run as bench_run
from seewhy.bench.report import RunData, write_report
from seewhy.bench.report.aggregates import aggregate_with_interval, load_values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "boxes"
    bench_run(small(metrics='metrics = [{name = "box_iou", label = "box.inner", shape = "inner"}, "box_iou"]'), path)
    return path


def literal_ap(rows: list[tuple[float, float, float]]) -> float:
    """Area under the best precision at each recall; `rows` of IoU, confidence, objects, no two confidences equal."""
    rows = sorted(rows, key=lambda row: -row[1])
    right = [iou >= 0.5 for iou, _, _ in rows]
    objects, area = sum(row[2] for row in rows), 0.0
    for i, hit in enumerate(right):
        if hit:
            area += max(sum(right[: k + 1]) / (k + 1) for k in range(i, len(rows))) / objects
    return area


def test_the_report_holds_the_literal_ap(folder, tmp_path):
    write_report(folder, tmp_path / "r.html")
    told = {(row["method"], row["metric"]): row for row in csv.DictReader((tmp_path / "r.csv").open())}
    run = RunData(folder)
    assert "AP@50" in (tmp_path / "r.html").read_text() or "ap50" in (tmp_path / "r.html").read_text()
    for label in ("box_iou", "box.inner"):
        for method in ("grad_cam", "lafam", "random"):
            rows = run.query(
                "SELECT max(value) FILTER (metric = ?), max(value) FILTER (metric = ?), max(value) FILTER "
                "(metric = ?) FROM scores WHERE method = ? GROUP BY entry",
                label,
                f"{label}.confidence",
                f"{label}.objects",
                method,
            )
            row = told[method, f"{label}.ap50"]
            assert float(row["mean"]) == pytest.approx(literal_ap(rows), abs=1e-12)
            assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
            assert int(row["n"]) == len(rows)
    ranks = [told[method, "box_iou.ap50"]["rank"] for method in ("grad_cam", "lafam", "random")]
    assert sorted(ranks) == ["", "1", "2"]  # a reference map has no rank


def test_values_meet_their_own_parts(folder):
    run = RunData(folder)
    values, samples = load_values(run, run.panels[0], "grad_cam", "box_iou", "box_iou")
    assert set(values) == {"", "corloc", "confidence", "objects"}
    assert np.array_equal(values["corloc"], values[""] >= 0.5)
    assert len(samples) == len(values[""]) > len(set(samples)) == 8


def test_images_are_resampled_with_all_their_maps():
    perfect = {"": np.array([0.9, 0.1, 0.9, 0.1]), "confidence": np.array([0.9, 0.1, 0.8, 0.2]), "objects": np.ones(4)}
    perfect = {name: np.tile(values, 3) for name, values in perfect.items()}
    two = np.repeat(list("abcdef"), 2)  # each image has one right and one wrong map: every resample is alike
    assert aggregate_with_interval("box_iou", "ap50", perfect, two) == (0.5, 0.5, 0.5)
    mean, low, high = aggregate_with_interval("box_iou", "ap50", perfect, np.array(list("abcdefghijkl")))
    assert (mean, low < 0.5 < high) == (0.5, True)
    alone = aggregate_with_interval("box_iou", "ap50", perfect, np.array(["a"] * 12))
    assert alone[0] == 0.5
    assert np.isnan(alone[1:]).all()
    assert np.isnan(aggregate_with_interval("box_iou", "ap50", {"": np.full(2, np.nan)}, two[:2])).all()
