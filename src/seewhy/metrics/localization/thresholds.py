"""From a map to a region: the rules by which a threshold is chosen.

Every rule is strict (value > threshold), so that a map of zeros has no region and a constant map none by `mean` and
`otsu`. By `max` a constant positive map is all region, and one without a positive value has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from seewhy.errors import OptionError
from seewhy.metrics.base import MetricInputs
from seewhy.metrics.masked_values import Pixels, pixels

RULES = ("max", "mean", "otsu", "best")
BINS = 256
LEVELS = tuple(i / 100 for i in range(100))


def check_rule(rule: str, level: float | None) -> None:
    """Check that the level goes with the rule.

    Raises:
        OptionError: When it does not.
    """
    if rule == "best" and level is None:
        raise OptionError(
            "rule='best' needs the level that is best on validation images; find it with "
            "seewhy.metrics.localization.thresholds.best_level and pass level=…"
        )
    if level is not None and rule in ("mean", "otsu"):
        raise OptionError(f"rule={rule!r} has no level; leave it out")
    if level is not None and not 0 <= level < 1:
        raise OptionError(f"level={level!r} must be a share of the maximum; use 0 or more, less than 1")


def region(flat: Pixels, rule: str, level: float | None) -> Bool[Tensor, "batch n"]:
    """Return the pixels above the threshold, of those that count."""
    if rule == "mean":
        threshold = flat.values.sum(1) / flat.count
        # rounding of the sum must not make a region of a constant map
        threshold = torch.where(flat.ranked.amax(1) == _lowest(flat), torch.inf, threshold)
    elif rule == "otsu":
        threshold = otsu(flat)
    else:
        threshold = (0.5 if level is None else level) * flat.ranked.amax(1)
    return (flat.values > threshold[:, None]) & flat.valid


def otsu(flat: Pixels) -> Float64[Tensor, "batch"]:
    """Return the threshold with the largest variance between the two sides, over 256 bins from minimum to maximum.

    As scikit-image's `threshold_otsu`, for a batch on its device: the center of the last bin below; of equals the
    first.
    """
    low, high = _lowest(flat), flat.ranked.amax(1)
    width = (high - low) / BINS
    position = (flat.values - low[:, None]) / width[:, None]  # 0/0 in a constant map
    bins = position.nan_to_num(0.0, 0.0, 0.0).floor().clamp(0, BINS - 1).long()
    counts = torch.zeros(len(low), BINS, dtype=torch.float64, device=low.device)
    counts.scatter_add_(1, bins, flat.valid.double())
    centers = low[:, None] + (torch.arange(BINS, device=low.device).double() + 0.5) * width[:, None]
    below, sum_below = counts.cumsum(1), (counts * centers).cumsum(1)
    above, sum_above = below[:, -1:] - below, sum_below[:, -1:] - sum_below
    variance = below * above * (sum_below / below - sum_above / above).square()
    best = variance[:, :-1].nan_to_num(-1.0).argmax(1)  # a side without pixels: 0/0
    return centers.gather(1, best[:, None])[:, 0]


def best_level(
    maps: Float[Tensor, "batch rows cols"],
    masks: Bool[Tensor, "batch rows cols"],
    valid: Bool[Tensor, "batch rows cols"] | None = None,
    levels: Sequence[float] = LEVELS,
) -> float:
    """Return the share of each map's maximum that gives the largest mean IoU on these images; of equals the least.

    They must not be the images that are scored. Pass it on as `MeanIoU(rule="best", level=…)`: then it is an option,
    and stored with the scores. Images with an empty mask or a map that is not finite are left out.

    Args:
        maps: Maps of validation images.
        masks: Their masks.
        valid: Pixels that count.
        levels: The shares to try.

    Raises:
        OptionError: When no image can be scored, or a level is out of range.
    """
    for level in levels:
        check_rule("best", level)
    usable = torch.isfinite(maps).flatten(1).all(1) & (masks if valid is None else masks & valid).flatten(1).any(1)
    if not levels or not bool(usable.any()):
        raise OptionError("no image with a finite map and a mask to find the best level on; pass validation images")
    flat = pixels(maps[usable], MetricInputs(valid=None if valid is None else valid[usable]))
    inside = flat.inside(masks[usable])
    means = torch.stack([mask_iou(region(flat, "best", level), inside).mean() for level in levels])
    return float(levels[int(means.argmax())])


def mask_iou(a: Bool[Tensor, "batch n"], b: Bool[Tensor, "batch n"]) -> Float64[Tensor, "batch"]:
    """Return the intersection over union of each row; one of the two must not be empty."""
    return (a & b).sum(1).double() / (a | b).sum(1)


def _lowest(flat: Pixels) -> Float64[Tensor, "batch"]:
    return flat.values.masked_fill(~flat.valid, torch.inf).amin(1)


__all__ = ["LEVELS", "RULES", "best_level", "check_rule", "mask_iou", "otsu", "region"]
