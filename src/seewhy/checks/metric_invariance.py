"""Checks of what changes a metric's value and what does not: scale, monotone changes, requirements, seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seewhy.checks.core import ensure, seed_everything
from seewhy.checks.metric_case import (
    EXACT,
    FIELDS,
    MetricCase,
    make_metric_case,
    metric_check,
    random_maps,
    same,
    some_method,
)
from seewhy.core.cards import REQUIREMENT_TEXT, Capability, Requirement
from seewhy.core.options import options_of

INCREASING: dict[str, Callable[[Tensor], Tensor]] = {
    "exp(a)": torch.exp,
    "a³ + a": lambda a: a**3 + a,
    "a + 5": lambda a: a + 5,
    "a − 5": lambda a: a - 5,
}


@metric_check
def check_monotone_invariance(case: MetricCase) -> None:
    """Check that an increasing change of the map leaves the value as it is if, and only if, the card says so.

    Where the card says no, a part may move in place of the value (which may be 0 or 1 for all of these maps).
    """
    changed = [name for name, fn in INCREASING.items() if not _unmoved(case, fn, case.card.monotone_invariant)]
    if case.card.monotone_invariant:
        ensure(not changed, f"the card says monotone-invariant, but {', '.join(changed)} changes the value")
    else:
        ensure(changed, "the card says not monotone-invariant, but no increasing change of the map moves the value")


@metric_check
def check_scale_invariance(case: MetricCase) -> None:
    """Check that multiplying the map by a positive number leaves the value if, and only if, the card says so."""
    factors = (4.0, 0.25, 1024.0)
    changed = [f"{k:g}" for k in factors if not _unmoved(case, partial(torch.mul, k), case.card.scale_invariant)]
    if case.card.scale_invariant:
        ensure(not changed, f"the card says scale-invariant, but times {', '.join(changed)} changes the value")
    else:
        ensure(changed, "the card says not scale-invariant, but no factor moves the value")


def _unmoved(case: MetricCase, fn: Callable[[Tensor], Tensor], value_only: bool) -> bool:
    """Tell whether the values (and parts) stay; maps as float64, so that the change makes no new ties."""
    maps, contrast_maps = case.maps.double(), case.contrast_maps.double()
    before = case.measure(maps, contrast_maps=contrast_maps)
    after = case.measure(fn(maps), contrast_maps=fn(contrast_maps))
    if value_only:
        before.parts = {}
    return same(before, after, EXACT)


@metric_check
def check_requirements_matter(case: MetricCase) -> None:
    """Check that each thing that the card needs changes a value or part, for some of a few batches."""
    for requirement in sorted(case.card.needs):
        moved = any(_moves(case, requirement, seed) for seed in range(8))
        ensure(moved, f"the card needs {REQUIREMENT_TEXT[requirement]}, but no change of it changes a value")


def _moves(case: MetricCase, requirement: Requirement, seed: int) -> bool:
    """Tell whether a change of what is required changes a value of the batch of this seed."""
    maker = None if case.known.method is None else type(case.known.method)
    other = case if not seed else make_metric_case(case.metric, case.known.model, seed=seed, method=maker)
    changed: dict[Requirement, Callable[[], Any]] = {
        Requirement.MASK: lambda: other.masks.roll((9, 13), (1, 2)),
        Requirement.OBJECTS: lambda: [~masks for masks in other.objects],
        Requirement.BOXES: lambda: [boxes * 0.5 for boxes in other.boxes],
        Requirement.CONTRAST: lambda: other.contrast_maps.flip(0),
        Requirement.LABEL: lambda: other.model.forward_checked(other.x).require(Capability.LOGITS).argmax(1),
        Requirement.MODEL: lambda: other.x.flip(0),
        Requirement.METHOD: lambda: some_method(other.model, 1),
    }
    changes: dict[str, Any] = {FIELDS[requirement]: changed[requirement]()}
    return not same(other.plain, other.measure(**changes), EXACT)


@metric_check
def check_invalid_pixels_ignored(case: MetricCase) -> None:
    """Check that where `valid` is false, neither the map nor the mask changes a value."""
    case.skip_unless_needed(Requirement.MASK, Requirement.OBJECTS)
    valid = torch.ones_like(case.masks)
    valid[:, :5] = valid[:, :, -6:] = False
    other = random_maps(case.size, torch.Generator().manual_seed(9)).to(case.maps)
    before = case.measure(valid=valid)
    maps, masks = case.maps.where(valid, other), case.masks ^ ~valid
    objects = [each ^ ~v for each, v in zip(case.objects, valid, strict=True)]
    ensure(same(before, case.measure(maps, valid=valid), EXACT), "the map where `valid` is false changes a value")
    after = case.measure(valid=valid, masks=masks, objects=objects)
    ensure(same(before, after, EXACT), "the mask where `valid` is false changes a value")


@metric_check
def check_map_forms(case: MetricCase) -> None:
    """Check that the same map in another float type, memory layout or grad mode has the same value."""
    maps = case.maps
    forms = {
        "float64": maps.double(),
        "bfloat16": maps.bfloat16(),
        "not contiguous": maps.mT.contiguous().mT,
        "wanting gradients": maps.clone().requires_grad_(),
    }
    for words, form in forms.items():
        ensure(same(case.plain, case.measure(form), EXACT), f"the same map, {words}, has another value")
    with torch.inference_mode():
        inside = case.measure(maps * 1)
    ensure(same(case.plain, inside, EXACT), "inside torch.inference_mode() the value differs")


@metric_check
def check_metric_seed(case: MetricCase) -> None:
    """Check that two runs agree bit by bit whatever the global seed; another `seed` moves a value iff stochastic."""
    seed_everything(1)
    first = case.measure()
    seed_everything(2)
    ensure(same(first, case.measure()), "two runs differ: it draws from the global random state")
    has_seed, says = "seed" in options_of(type(case.metric)), case.card.stochastic
    ensure(
        has_seed == says,
        f"the card says {'' if says else 'not '}stochastic, but the metric has "
        f"{'an' if has_seed else 'no'} option `seed`",
    )
    if has_seed:
        other = type(case.metric)(**{**case.metric.options, "seed": 12345})
        ensure(not same(case.plain, case.measure(metric=other)), "another seed gives the same values")
