"""What the cards of the metrics of the map alone promise: tested both ways, for every one that is registered."""

from __future__ import annotations

import math

import pytest
import torch

from seewhy.core.cards import Requirement
from seewhy.metrics import METRICS, MetricInputs

ANNOTATIONS = {Requirement.MASK, Requirement.OBJECTS, Requirement.BOXES}
CLASSES = [
    c for c in METRICS.values() if c.card.property in ("localization", "complexity") and c.card.needs <= ANNOTATIONS
]
each = pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.card.name)
BATCH, SIZE = 5, (10, 14)


def scene(levels=None):
    g = torch.Generator().manual_seed(0)
    maps = torch.rand(BATCH, *SIZE, generator=g).double()
    maps = (maps * levels).round() / levels if levels else maps
    masks = torch.rand(BATCH, *SIZE, generator=g) < 0.3
    objects = [torch.stack([m, m.roll(2, 0)]) for m in masks]
    boxes = [torch.tensor([[1.0, 2, 8, 9], [6, 0, 14, 5]])[: 1 + i % 2] for i in range(BATCH)]
    return maps, MetricInputs(
        masks=masks, objects=objects, boxes=boxes, valid=torch.rand(BATCH, *SIZE, generator=g) < 0.9
    )


def pick(given, rows):
    return MetricInputs(
        masks=given.masks[rows],
        objects=[given.objects[i] for i in rows],
        boxes=[given.boxes[i] for i in rows],
        valid=given.valid[rows],
    )


def everything(found):
    return torch.stack([found.value, *found.parts.values()])


def test_there_are_all_of_them():
    assert {c.card.name for c in CLASSES} >= {
        "pointing_game",
        "top_k_intersection",
        "relevance_mass_accuracy",
        "relevance_rank_accuracy",
        "auc",
        "miou",
        "attribution_localization",
        "energy_pointing",
        "box_iou",
        "multi_object",
        "object_choice",
        "sparseness",
        "entropy",
        "compactness",
    }


def top_k_small(cls):
    return cls(k=20) if cls.card.name == "top_k_intersection" else cls()


@each
def test_an_image_is_scored_alone(cls):
    """Same number in another order, alone, and beside a map of NaN or one that is a million times larger."""
    metric, (maps, given) = top_k_small(cls), scene()
    value = everything(metric.measure(maps, given))
    assert torch.isfinite(value).all()
    order = [3, 0, 4, 2, 1]
    assert torch.equal(everything(metric.measure(maps[order], pick(given, order))), value[:, order])
    for i in range(BATCH):
        assert torch.equal(everything(metric.measure(maps[[i]], pick(given, [i])))[:, 0], value[:, i])
    maps[1], maps[3, 2, 2] = maps[1] * 1e6, math.nan
    beside = metric.measure(maps, given)
    assert torch.equal(everything(beside)[:, [0, 2, 4]], value[:, [0, 2, 4]])
    assert everything(beside)[:, 3].isnan().all()
    assert beside.reasons == {3: "the map holds NaN or infinity"}


RISING = {
    "exp": lambda a: (8 * a).exp(),
    "cube": lambda a: (a - 0.4) ** 3,
    "shift": lambda a: a + 5,
    "root": lambda a: a.sqrt() / 7,
}


@each
@pytest.mark.parametrize("levels", [None, 8])
def test_rising_changes_of_the_values(cls, levels):
    metric, (maps, given) = top_k_small(cls), scene(levels)
    value = everything(metric.measure(maps, given))
    changed = [
        name
        for name, f in RISING.items()
        if not torch.allclose(everything(metric.measure(f(maps), given)), value, atol=1e-9)
    ]
    assert bool(changed) is not cls.card.monotone_invariant, changed


@each
def test_positive_factors(cls):
    metric, (maps, given) = top_k_small(cls), scene()
    value = everything(metric.measure(maps, given))
    same = all(
        torch.allclose(everything(metric.measure(maps * factor, given)), value, rtol=1e-9, atol=1e-12)
        for factor in (1e-6, 0.3, 4, 1e6)
    )
    assert same is cls.card.scale_invariant


@each
@pytest.mark.parametrize("kind", ["noise", "signed", "constant", "zero", "negative", "peak", "object", "inverse"])
def test_bounds_and_reasons(cls, kind):
    """Every value is inside its bounds, or NaN with a reason."""
    maps, given = scene()
    peak = torch.zeros_like(maps)
    peak[:, 4, 4] = 1
    maps = {
        "noise": maps,
        "signed": maps - 0.5,
        "constant": torch.full_like(maps, 0.7),
        "zero": maps * 0,
        "negative": -1 - maps,
        "peak": peak,
        "object": given.masks.double(),
        "inverse": 1 - given.masks.double(),
    }[kind]
    found = top_k_small(cls).measure(maps, given)
    low, high = cls.card.bounds
    for i, value in enumerate(found.value.tolist()):
        assert math.isnan(value) is (i in found.reasons)
        assert math.isnan(value) or low <= value <= (math.inf if high is None else high) + 1e-12
    assert found.value.dtype == torch.float64
    assert set(found.parts) == set(cls.card.parts)


NONE = None  # no value
CONSTANT = {
    "pointing_game": 0.25,
    "top_k_intersection": 0.25,
    "relevance_mass_accuracy": 0.25,
    "auc": 0.5,
    "relevance_rank_accuracy": 0.25,
    "attribution_localization": 0.25,
    "miou": 0.25,
    "energy_pointing": 0.25,
    "box_iou": 0.25,
    "multi_object": 0.25,
    "object_choice": 0.25,
    "sparseness": 0,
    "entropy": math.log(16),
    "compactness": 0,
}
ZERO = {
    **CONSTANT,
    "relevance_mass_accuracy": NONE,
    "attribution_localization": NONE,
    "energy_pointing": NONE,
    "miou": 0,
    "box_iou": 0,
    "sparseness": NONE,
    "entropy": NONE,
    "compactness": NONE,
}
FULL = {**dict.fromkeys(CONSTANT, 1), "auc": NONE}
PIXEL = {**FULL, "sparseness": 0, "entropy": 0, "compactness": 0}


@each
@pytest.mark.parametrize("kind", ["constant", "zero", "full", "pixel", "empty"])
def test_declared_at_the_edges(cls, kind):
    size = (1, 1) if kind == "pixel" else (4, 4)
    maps, mask = torch.full((1, *size), 0.3), torch.zeros(1, *size, dtype=torch.bool)
    if kind == "zero":
        maps = maps * 0
    height = {"constant": 1, "zero": 1, "full": 4, "pixel": 1, "empty": 0}[kind]
    mask[0, :height] = True
    boxes = [torch.tensor([[0.0, 0, size[1], height]])]
    metric = cls() if cls.card.name != "top_k_intersection" else cls(k=3)
    found = metric.measure(maps, masks=mask, objects=[mask], boxes=boxes)
    if kind == "empty":
        expected = NONE if cls.card.needs else CONSTANT[cls.card.name]
    elif kind == "full" and not cls.card.needs:
        expected = CONSTANT[cls.card.name]
    else:
        expected = {"constant": CONSTANT, "zero": ZERO, "full": FULL, "pixel": PIXEL}[kind][cls.card.name]
    if expected is NONE:
        assert math.isnan(found.value.item())
        assert found.reasons[0]
    else:
        assert found.value.item() == pytest.approx(expected, abs=1e-12)
        assert not found.reasons


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_float_type_gives_the_score_of_the_same_numbers(cls, dtype):
    maps, given = scene()
    maps = maps.to(dtype)
    metric = top_k_small(cls)
    assert torch.equal(everything(metric.measure(maps, given)), everything(metric.measure(maps.double(), given)))


@each
def test_nothing_that_was_given_changes(cls):
    maps, given = scene()
    kept = maps.clone(), given.masks.clone(), given.valid.clone()
    cls()(maps.requires_grad_(), given)
    assert all(torch.equal(a, b) for a, b in zip((maps, given.masks, given.valid), kept, strict=True))


@each
def test_no_map_is_read_by_the_host_but_in_the_checks(cls, monkeypatch):
    """Boxes are found on the CPU; everything else stays where the maps are."""
    maps, given = scene()
    metric = top_k_small(cls)

    def refuse(self, *args):
        raise AssertionError("asked the device for a number")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    metric.score(maps, given)


def test_the_cards_ask_for_what_is_used():
    for cls in CLASSES:
        maps, given = scene()
        asked = {Requirement.MASK: "masks", Requirement.OBJECTS: "objects", Requirement.BOXES: "boxes"}
        only = MetricInputs(**{asked[ask]: getattr(given, asked[ask]) for ask in cls.card.needs})
        assert cls()(maps, only).isfinite().all()
