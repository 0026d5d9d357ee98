"""Checks that a metric's numbers mean what its card says, whatever the maps, their batch and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest import SkipTest

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
from seewhy.core.cards import REQUIREMENT_TEXT, Requirement
from seewhy.core.options import options_of

INCREASING: dict[str, Callable[[Tensor], Tensor]] = {
    "exp(a)": torch.exp,
    "a³ + a": lambda a: a**3 + a,
    "a + 5": lambda a: a + 5,
    "a − 5": lambda a: a - 5,
}


@metric_check
def check_value_per_map(case: MetricCase) -> None:
    """One float64 on the maps' device for each map: finite, or NaN with a reason; parts likewise, as the card says."""
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
    """What the card's `whole` names, and nothing else, is made of values and parts; missing values do no harm."""
    found = {"": case.plain.value, **case.plain.parts}
    for values in (found, {name: column * torch.nan for name, column in found.items()}):
        made, named = case.metric.aggregate(values), sorted(case.card.aggregates)
        ensure(sorted(made) == named, f"of a set: {sorted(made)}, the card says {named}")
        ensure(all(isinstance(value, float) for value in made.values()), "a value of a set is one float")


@metric_check
def check_curves(case: MetricCase) -> None:
    """Curves are of the value or a part, (batch, points), float64, with one abscissa for each point."""
    curves, axis = case.plain.curves, case.metric.axis
    ensure(set(curves) <= {"", *case.card.parts}, f"curves {sorted(curves)} are not of the value or a part")
    ensure(bool(curves) == (axis is not None), "curves and an axis come together, or not at all")
    for name, curve in curves.items():
        shape = (len(case.maps), len(axis))
        ensure(tuple(curve.shape) == shape, f"the curve {name!r} has the shape {tuple(curve.shape)}, not {shape}")
        ensure(curve.dtype == torch.float64, f"the curve {name!r} is {curve.dtype}, not torch.float64")
    ensure(axis is None or case.metric.axis_title.strip(), "the axis has no title")


def _extremes(case: MetricCase) -> Iterator[tuple[str, Tensor]]:
    maps, size = case.maps, case.maps.shape[1:]
    spot = torch.zeros_like(maps)
    spot[:, 0, 0] = 1
    mask = case.known.masks.to(maps)
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
        "a ramp": torch.linspace(-1, 1, size[0] * size[1]).view(1, *size).to(maps).expand_as(maps),
    }.items()


@metric_check
def check_bounds(case: MetricCase) -> None:
    """Whatever the map, the value lies between the card's bounds, or there is none."""
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
    """A map's value depends neither on the batch that it is in, nor on its place in it."""
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
    """A map with NaN or infinity gets NaN and a reason; its neighbors keep every bit."""
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
    """No mask, object, box, class or rival for one image: NaN and a reason there, the neighbors keep every bit."""
    case.skip_unless_needed(
        Requirement.MASK, Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL, Requirement.CONTRAST
    )
    for ask in sorted(
        case.card.needs
        & {Requirement.MASK, Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL, Requirement.CONTRAST}
    ):
        value = getattr(case.known, FIELDS[ask])
        nothing = {Requirement.LABEL: -1, Requirement.CONTRAST: torch.nan, Requirement.MASK: False}
        lacking = list(value) if isinstance(value, list) else value.clone()
        lacking[1] = nothing[ask] if ask in nothing else value[1][:0]
        found = case.measure(**{FIELDS[ask]: lacking})
        ensure(found.value[1].isnan() and found.reasons.get(1), f"an image without {REQUIREMENT_TEXT[ask]} has a value")
        ensure(
            same(found, case.plain, rows=[0, 2, 3]), f"an image without {REQUIREMENT_TEXT[ask]} changes its neighbors"
        )


@metric_check
def check_full_mask(case: MetricCase) -> None:
    """A mask that covers the image gives a value within the bounds, or NaN and a reason."""
    case.skip_unless_needed(Requirement.MASK)
    low, high = case.card.bounds
    full = case.known.masks.clone()
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
    """A map that is 0, 1 or −1 everywhere never gets the best possible value, and its neighbors keep every bit."""
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
def check_monotone_invariance(case: MetricCase) -> None:
    """An increasing change of the map's values leaves the value as it is if, and only if, the card says so.

    Where the card says no, a part may move in place of the value (which may be 0 or 1 for all of these maps).
    """
    changed = [name for name, fn in INCREASING.items() if not _unmoved(case, fn, case.card.monotone_invariant)]
    if case.card.monotone_invariant:
        ensure(not changed, f"the card says monotone-invariant, but {', '.join(changed)} changes the value")
    else:
        ensure(changed, "the card says not monotone-invariant, but no increasing change of the map moves the value")


@metric_check
def check_scale_invariance(case: MetricCase) -> None:
    """Multiplying the map by a positive number leaves the value as it is if, and only if, the card says so."""
    changed = [
        f"{k:g}" for k in (4.0, 0.25, 1024.0) if not _unmoved(case, lambda a, k=k: a * k, case.card.scale_invariant)
    ]
    if case.card.scale_invariant:
        ensure(not changed, f"the card says scale-invariant, but times {', '.join(changed)} changes the value")
    else:
        ensure(changed, "the card says not scale-invariant, but no factor moves the value")


def _unmoved(case: MetricCase, fn: Callable[[Tensor], Tensor], value_only: bool) -> bool:
    """Whether the values (and parts) stay; maps as float64, so that the change makes no new ties."""
    maps = case.maps.double()
    contrast_maps = fn(case.known.contrast_maps.double())
    before, after = (
        case.measure(maps, contrast_maps=case.known.contrast_maps.double()),
        case.measure(fn(maps), contrast_maps=contrast_maps),
    )
    if value_only:
        before.parts = {}
    return same(before, after, EXACT)


@metric_check
def check_direction(case: MetricCase) -> None:
    """A map that is the mask (or all objects) is better, in the card's direction, than one that is all but the mask."""
    if (
        case.card.higher_is_better is None
        or case.card.needs - {Requirement.MASK, Requirement.OBJECTS}
        or not case.card.needs
    ):
        raise SkipTest("only for metrics that ask for masks alone and have a direction")
    alone = [mask[None] for mask in case.known.masks]
    good, bad = (case.measure(maps.to(case.maps), objects=alone) for maps in (case.known.masks, ~case.known.masks))
    gain = (good.value - bad.value) * (1 if case.card.higher_is_better else -1)
    ensure((gain > 0).all(), "a map that is the mask is no better than one that is all but the mask")


@metric_check
def check_requirements_matter(case: MetricCase) -> None:
    """Each thing that the card needs changes a value or part, for some of a few batches."""
    for ask in sorted(case.card.needs):
        moved = any(_moves(case, ask, seed) for seed in range(8))
        ensure(moved, f"the card needs {REQUIREMENT_TEXT[ask]}, but no change of it changes a value")


def _moves(case: MetricCase, ask: Requirement, seed: int) -> bool:
    other = case if not seed else make_metric_case(case.metric, case.known.model, seed=seed)
    known = other.known
    here = {
        Requirement.MASK: lambda: known.masks.roll((9, 13), (1, 2)),
        Requirement.OBJECTS: lambda: [~each for each in known.objects],
        Requirement.BOXES: lambda: [b * 0.5 for b in known.boxes],
        Requirement.CONTRAST: lambda: known.contrast_maps.flip(0),
        Requirement.LABEL: lambda: known.model.forward_checked(known.x).logits.argmax(1),
        Requirement.MODEL: lambda: known.x.flip(0),
        Requirement.METHOD: lambda: some_method(known.model, 1),
    }[ask]()
    return not same(other.plain, other.measure(**{FIELDS[ask]: here}), EXACT)


@metric_check
def check_invalid_pixels_ignored(case: MetricCase) -> None:
    """Where `valid` is false, neither the map nor the mask changes a value."""
    case.skip_unless_needed(Requirement.MASK, Requirement.OBJECTS)
    valid = torch.ones_like(case.known.masks)
    valid[:, :5] = valid[:, :, -6:] = False
    other = random_maps(tuple(case.maps.shape[1:]), torch.Generator().manual_seed(9)).to(case.maps)
    before = case.measure(valid=valid)
    maps, masks = case.maps.where(valid, other), case.known.masks ^ ~valid
    objects = [each ^ ~v for each, v in zip(case.known.objects, valid, strict=True)]
    ensure(same(before, case.measure(maps, valid=valid), EXACT), "the map where `valid` is false changes a value")
    after = case.measure(valid=valid, masks=masks, objects=objects)
    ensure(same(before, after, EXACT), "the mask where `valid` is false changes a value")


@metric_check
def check_map_forms(case: MetricCase) -> None:
    """The same numbers in another float type, memory layout or grad mode have the same value."""
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
    """Two runs give the same bits whatever the global seed; another `seed` moves a value iff stochastic."""
    runs = []
    for seed in (1, 2):
        seed_everything(seed)
        runs.append(case.measure())
    ensure(same(*runs), "two runs differ: it draws from the global random state")
    has_seed, says = "seed" in options_of(type(case.metric)), case.card.stochastic
    ensure(
        has_seed == says,
        f"the card says {'' if says else 'not '}stochastic, but the metric has "
        f"{'an' if has_seed else 'no'} option `seed`",
    )
    if has_seed:
        other = type(case.metric)(**{**case.metric.options, "seed": 12345})
        ensure(not same(case.plain, case.measure(metric=other)), "another seed gives the same values")
