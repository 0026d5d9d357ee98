"""Synthetic nodules: what a biomarker says is what is drawn, and the parts lie where they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seewhy.data import LIDC, Nodules
from seewhy.data.lidc_marks import BIOMARKERS
from seewhy.data.nodules import MM_PER_PIXEL, PARTS, NodulePlan, _scan, malignancy_of, part_masks
from seewhy.errors import OptionError

ROUND = NodulePlan(
    diameter=40,
    ratio=1.0,
    turn=0.0,
    waves=5,
    bulge=0.0,
    phase=0.0,
    blur=0.5,
    spicules=(),
    grains=(),
    solid=1.0,
    noise=20.0,
    center=(48.0, 48.0),
)


def scan(plan: NodulePlan) -> np.ndarray:
    return _scan(replace(plan, noise=0.0), np.random.default_rng(3))


def test_a_sample_depends_on_its_number_alone() -> None:
    a, b = Nodules(5)[3], Nodules(9)[3]
    assert np.array_equal(np.asarray(a.image), np.asarray(b.image))
    assert a.about == b.about
    assert not np.array_equal(np.asarray(a.image), np.asarray(Nodules(5, seed=1)[3].image))
    assert set(a.about["biomarkers"]) == set(BIOMARKERS)
    assert a.labels == (int(a.about["malignancy"] > 3),)


def test_the_parts_are_all_pixels_once() -> None:
    data = Nodules(20)
    for i in range(20):
        parts = data.parts(i)
        assert tuple(parts) == PARTS
        assert (sum(part.astype(int) for part in parts.values()) == 1).all()
        assert np.array_equal(data[i].masks[0], ~parts["background"])


def test_the_diameter_is_the_largest_extent() -> None:
    for i in range(12):
        plan = replace(Nodules(12).plan(i), spicules=())
        rows, cols = np.nonzero(_inside(plan))
        points = np.column_stack([rows, cols])
        extent = max(np.linalg.norm(points - p, axis=1).max() for p in points) + 1
        assert extent <= plan.diameter + 1.5
        if plan.bulge < 0.05:
            assert extent == pytest.approx(plan.biomarkers["diameter"] / MM_PER_PIXEL, abs=2.5)


def _inside(plan: NodulePlan) -> np.ndarray:
    from seewhy.data.nodules import _beyond

    return _beyond(plan) < 0


def test_each_biomarker_changes_its_own_part() -> None:
    """Where an image changes when one number does: margin at the edge, spicules outside, grains inside."""
    base = scan(ROUND)
    for changes, part in (
        ({"blur": 6.0}, "edge"),
        ({"spicules": ((0.3, 12.0, 1.5), (2.5, 12.0, 1.5))}, "spicules"),
        ({"grains": ((2.0, 3.0, 2.0),)}, "grains"),
        ({"solid": 0.2}, "body"),
    ):
        plan = replace(ROUND, **changes)
        changed = abs(scan(plan) - base)
        weight = {name: changed[mask].mean() for name, mask in part_masks(plan).items() if mask.any()}
        assert max(weight, key=weight.get) == part, (changes, weight)
    smaller = abs(scan(replace(ROUND, diameter=30.0)) - base)
    assert smaller[part_masks(ROUND)["background"]].mean() < 0.05 * smaller[_inside(ROUND)].mean()


def test_ratings_span_the_scales_of_lidc_and_are_independent() -> None:
    data = Nodules(400)
    table = np.array([list(data.plan(i).biomarkers.values()) for i in range(400)])
    for name, low, high in zip(BIOMARKERS, table.min(0), table.max(0), strict=True):
        if name == "diameter":
            assert 10 <= low < 11
            assert 24 < high <= 25
        else:
            assert 1 <= low < 1.2
            assert 4.8 < high <= (6 if name == "calcification" else 5)
    correlations = np.corrcoef(table.T) - np.eye(8)
    assert abs(correlations).max() < 0.2
    labels = [malignancy_of(data.plan(i).biomarkers) > 3 for i in range(400)]
    assert 0.4 < np.mean(labels) < 0.6


def test_the_answers_are_laid_out_as_lidcs(tmp_path) -> None:
    """What reads one reads the other."""
    sample = Nodules(1)[0]
    columns = {f"{name}_mm" if name == "diameter" else name: name for name in BIOMARKERS}
    sample.image.convert("L").save(tmp_path / "a.png")
    from PIL import Image

    Image.fromarray(sample.masks[0].astype(np.uint8) * 255).save(tmp_path / "m.png")
    values = [str(sample.about["biomarkers"][name]) for name in columns.values()]
    head = ",".join(["id", "image", "mask", "malignancy", *columns])
    line = ",".join(["x", "a.png", "m.png", str(sample.about["malignancy"]), *values])
    (tmp_path / "nodules.csv").write_text(f"{head}\n{line}\n")
    theirs = LIDC(tmp_path)[0]
    assert theirs.about["biomarkers"] == sample.about["biomarkers"]
    assert theirs.labels == sample.labels
    assert np.array_equal(theirs.masks, sample.masks)


def test_what_there_is_not() -> None:
    with pytest.raises(OptionError, match="'all'"):
        Nodules(split="test")
    with pytest.raises(OptionError, match="at least 1"):
        Nodules(0)
