"""Checks of a metric's values: their form and bounds, and one map's value not touched by another's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from seewhy.checks.core import ensure
from seewhy.checks.metric_case import EXACT, FIELDS, MetricCase, metric_check, same
from seewhy.core.cards import REQUIREMENT_TEXT, Requirement

TRUTH = (Requirement.MASK, Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL, Requirement.CONTRAST)
"""What is known of each image, and may be missing for one."""

NOTHING = {Requirement.LABEL: -1, Requirement.CONTRAST: torch.nan, Requirement.MASK: False}
"""The entry of an image of which nothing is known; objects and boxes are an empty list."""


@metric_check
def check_value_per_map(case: MetricCase) -> None:
    """Check for one float64 on the maps' device for each map: finite, or NaN with a reason; parts as the card says."""
    found = case.plain
    for name, value in {"the value": found.value, **{f"part {k}": v for k, v in found.parts.items()}}.items():
        ensure(tuple(value.shape) == (len(case.maps),), f"{name} has the shape {tuple(value.shape)}, not (batch,)")
        ensure(value.dtype == torch.float64, f"{name} is {value.dtype}, not torch.float64")
        ensure(value.device == case.maps.device, f"{name} is on {value.device}, the maps on {case.maps.device}")
        ensure(not torch.isinf(value).any(), f"{name} is infinite")
        ensure(not value.requires_grad, f"{name} drags a graph behind it")
    bare = [i for i, bad in enumerate(found.value.isnan().tolist()) if bad != (i in found.reasons)]
    ensure(not bare, f"row {bare[:1]} has NaN without a reason, or a reason without NaN")
    ensure(
        set(found.parts) == set(case.card.parts),
        f"parts {sorted(found.parts)}, the card says {sorted(case.card.parts)}",
    )


@metric_check
def check_aggregates(case: MetricCase) -> None:
    """Check that `aggregate` returns what the card's `aggregates` names and nothing else, also where values miss."""
    found = {"": case.plain.value, **case.plain.parts}
    for values in (found, {name: column * torch.nan for name, column in found.items()}):
        made, named = case.metric.aggregate(values), sorted(case.card.aggregates)
        ensure(sorted(made) == named, f"of a set: {sorted(made)}, the card says {named}")
        ensure(all(isinstance(value, float) for value in made.values()), "a value of a set is one float")


@metric_check
def check_curves(case: MetricCase) -> None:
    """Check that curves are of the value or a part, (batch, points), float64, with one abscissa for each point."""
    curves, axis = case.plain.curves, case.metric.axis
    ensure(set(curves) <= {"", *case.card.parts}, f"curves {sorted(curves)} are not of the value or a part")
    ensure(bool(curves) == (axis is not None), "curves and an axis come together, or not at all")
    for name, curve in curves.items():
        shape = (len(case.maps), len(axis or ()))
        ensure(tuple(curve.shape) == shape, f"the curve {name!r} has the shape {tuple(curve.shape)}, not {shape}")
        ensure(curve.dtype == torch.float64, f"the curve {name!r} is {curve.dtype}, not torch.float64")
    ensure(axis is None or case.metric.axis_title.strip(), "the axis has no title")


def _extremes(case: MetricCase) -> Iterator[tuple[str, Tensor]]:
    maps, (rows, cols) = case.maps, case.size
    spot = torch.zeros_like(maps)
    spot[:, 0, 0] = 1
    mask = case.masks.to(maps)
    yield from {
        "random": maps,
        "not negative": maps.abs(),
        "negative": -maps.abs() - 1,
        "one pixel": spot,
        "all but one pixel": 1 - spot,
        "the mask": mask,
        "all but the mask": 1 - mask,
        "huge": maps * 2.0**60,
        "tiny": maps * 2.0**-60,
        "a ramp": torch.linspace(-1, 1, rows * cols).view(1, rows, cols).to(maps).expand_as(maps),
    }.items()


@metric_check
def check_bounds(case: MetricCase) -> None:
    """Check that the value lies between the card's bounds, whatever the map, or that there is none."""
    low, high = case.card.bounds
    for words, maps in _extremes(case):
        found = case.measure(maps)
        for value in found.value[~found.value.isnan()].tolist():
            ensure(low is None or value >= low - EXACT, f"a map that is {words} has {value:.6g}, below {low}")
            ensure(high is None or value <= high + EXACT, f"a map that is {words} has {value:.6g}, above {high}")
        ensure(
            set(found.value.isnan().nonzero().flatten().tolist()) == set(found.reasons),
            f"for a map that is {words}, NaN and reasons do not agree",
        )


@metric_check
def check_value_independent_of_batch(case: MetricCase) -> None:
    """Check that a map's value depends neither on the batch that it is in, nor on its place in it."""
    n = len(case.maps)
    for i in range(n):
        alone = case.metric.measure(*case.rows([i]))
        ensure(
            torch.allclose(alone.value, case.plain.value[i : i + 1], rtol=1e-5, atol=1e-5, equal_nan=True),
            f"map {i} has {case.plain.value[i]:.6g} in the batch and {alone.value[0]:.6g} alone",
        )
    order = [*range(1, n), 0]
    moved = case.metric.measure(*case.rows(order)).value
    ensure(
        torch.allclose(moved, case.plain.value[order], rtol=1e-5, atol=1e-5, equal_nan=True),
        "a batch in another order has other values",
    )


@metric_check
def check_nonfinite_map_isolated(case: MetricCase) -> None:
    """Check that a map with NaN or infinity gets NaN and a reason, and that its neighbors keep every bit."""
    for bad in (torch.nan, torch.inf):
        maps = case.maps.clone()
        maps[1, 2, 3] = bad
        found = case.measure(maps)
        ensure(found.value[1].isnan() and found.reasons.get(1), f"a map with {bad} has a value, or no reason")
        ensure(same(found, case.plain, rows=[0, 2, 3]), f"a map with {bad} changes its neighbors' values")
        every = case.measure(torch.full_like(maps, bad))
        ensure(every.value.isnan().all() and len(every.reasons) == len(maps), f"maps that are all {bad} have values")


@metric_check
def check_missing_truth_isolated(case: MetricCase) -> None:
    """Check that an image without mask, objects, boxes, class or contrast map gets NaN and a reason.

    Its neighbors keep every bit.
    """
    case.skip_unless_needed(*TRUTH)
    for requirement in sorted(case.card.needs & set(TRUTH)):
        field, text = FIELDS[requirement], REQUIREMENT_TEXT[requirement]
        value = getattr(case.known, field)
        lacking = list(value) if isinstance(value, list) else value.clone()
        lacking[1] = NOTHING[requirement] if requirement in NOTHING else value[1][:0]
        changes: dict[str, Any] = {field: lacking}
        found = case.measure(**changes)
        ensure(found.value[1].isnan() and found.reasons.get(1), f"an image without {text} has a value")
        ensure(same(found, case.plain, rows=[0, 2, 3]), f"an image without {text} changes its neighbors")


@metric_check
def check_full_mask(case: MetricCase) -> None:
    """Check that a mask that covers the image gives a value within the bounds, or NaN and a reason."""
    case.skip_unless_needed(Requirement.MASK)
    low, high = case.card.bounds
    full = case.masks.clone()
    full[1] = True
    found = case.measure(masks=full)
    value = found.value[1].item()
    ensure(found.value[1].isnan() == (1 in found.reasons), "a full mask gives NaN without a reason")
    ensure(
        value != value or ((low is None or value >= low - EXACT) and (high is None or value <= high + EXACT)),
        f"a full mask gives {value:.6g}, outside of the bounds",
    )
    ensure(same(found, case.plain, rows=[0, 2, 3]), "a full mask changes the neighbors' values")


@metric_check
def check_constant_map(case: MetricCase) -> None:
    """Check that a map that is 0, 1 or −1 everywhere never gets the best value; its neighbors keep every bit."""
    best = case.card.bounds[bool(case.card.higher_is_better)]
    for level in (0.0, 1.0, -1.0):
        maps = case.maps.clone()
        maps[1] = level
        found = case.measure(maps)
        value = found.value[1].item()
        ensure((value != value) == (1 in found.reasons), f"a map that is {level:g} everywhere has NaN without a reason")
        perfect = case.card.higher_is_better is not None and best is not None and abs(value - best) <= EXACT
        ensure(not perfect, f"a map that is {level:g} everywhere gets the best value, {value:.6g}")
        ensure(same(found, case.plain, rows=[0, 2, 3]), "a constant map changes the neighbors' values")


@metric_check
def check_direction(case: MetricCase) -> None:
    """Check that a map that is the mask is better, in the card's direction, than one that is all but the mask."""
    needs = case.card.needs
    if case.card.higher_is_better is None or not needs or needs - {Requirement.MASK, Requirement.OBJECTS}:
        raise SkipTest("only for metrics that ask for masks alone and have a direction")
    alone = [mask[None] for mask in case.masks]
    good, bad = (case.measure(maps.to(case.maps), objects=alone) for maps in (case.masks, ~case.masks))
    gain = (good.value - bad.value) * (1 if case.card.higher_is_better else -1)
    ensure((gain > 0).all(), "a map that is the mask is no better than one that is all but the mask")
