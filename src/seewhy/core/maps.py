"""Operations on attribution maps that every floor of the house shares.

Maps are un-normalized until somebody looks at them. What counts as constant, how a map is resized and how it is
brought to a displayable range is decided here, once.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from seewhy.errors import OptionError

CONSTANT_SPREAD = 1e-6
"""Largest spread of a constant map, relative to its largest magnitude: the rounding of float32."""

MODES = ("bilinear", "nearest", "bicubic")
"""Ways to resize a map."""


def is_constant(maps: Float[Tensor, "..."], tolerance: float = CONSTANT_SPREAD, axes: int = 2) -> Bool[Tensor, "..."]:
    """Tell which maps have one value everywhere, up to rounding, and so point nowhere; NaN never does.

    Args:
        maps: One or more maps.
        tolerance: Largest spread, relative to the largest magnitude of the map.
        axes: How many axes a map has: rows and columns, of volumes depth as well.

    Returns:
        One truth value per map.
    """
    return flat_rows(maps.flatten(-axes), tolerance)


def flat_rows(values: Float[Tensor, "*rows n"], tolerance: float = CONSTANT_SPREAD) -> Bool[Tensor, "*rows"]:
    """Tell which rows of numbers have one value everywhere, up to rounding."""
    low, high = values.aminmax(dim=-1)
    return high - low <= tolerance * torch.maximum(low.abs(), high.abs())


def normalize(maps: Float[Tensor, "*maps"], signed: bool, axes: int = 2) -> Float[Tensor, "*maps"]:
    """Bring each map to the range in which it is shown, by its own values only.

    Args:
        maps: One or more maps.
        signed: Whether negative values mean evidence against the target.
        axes: As in `is_constant`.

    Returns:
        Signed maps in [-1, 1], divided by their largest magnitude so that 0 stays 0; unsigned maps in [0, 1] by
        minimum and maximum. A constant map becomes all zeros.
    """
    constant = spread_over(is_constant(maps, axes=axes), axes)
    over = tuple(range(-axes, 0))
    if not signed:
        maps = maps - maps.amin(over, keepdim=True)
    scale = maps.abs().amax(over, keepdim=True)
    return torch.where(constant, 0, maps / torch.where(constant, 1, scale))


def spread_over(values: Shaped[Tensor, "..."], axes: int) -> Shaped[Tensor, "..."]:
    """Return one value for each map with as many axes of length one behind it."""
    return values[(..., *[None] * axes)]


def linear(batch: Tensor) -> str:
    """Return the linear interpolation of torch for images (B, C, rows, cols) or volumes (B, C, depth, rows, cols)."""
    return "bilinear" if batch.ndim == 4 else "trilinear"


def resize(
    attribution: Float[Tensor, "r c"], size: tuple[int, int], mode: str = "bilinear"
) -> Float[Tensor, "rows cols"]:
    """Resize one map; cell centers as in torch's `align_corners=False`, without antialiasing.

    Args:
        attribution: The map.
        size: Rows and columns of the result.
        mode: `bilinear`, `nearest` or `bicubic`.

    Raises:
        OptionError: The mode is unknown, or the size is empty.
    """
    if mode not in MODES:
        raise OptionError(f"unknown interpolation {mode!r}; choose from {', '.join(MODES)}")
    if min(size) < 1:
        raise OptionError(f"a map cannot have the size {tuple(size)}; pass (rows, cols) of at least 1")
    if mode == "nearest":  # plain "nearest" shifts by half a cell
        return torch.nn.functional.interpolate(attribution[None, None], size=tuple(size), mode="nearest-exact")[0, 0]
    values = attribution[None, None]
    return torch.nn.functional.interpolate(values, size=tuple(size), mode=mode, align_corners=False)[0, 0]


def place(
    attribution: Float[Tensor, "r c"],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    outside: float = 0.0,
    mode: str = "bilinear",
) -> Float[Tensor, "rows cols"]:
    """Return a larger image with a map in its place, as `resize` would draw it there.

    Args:
        attribution: The map.
        box: The part of the image that it covers: left, top, right, bottom in pixels, also fractions and beyond it.
        size: Rows and columns of the image.
        outside: The value of pixels whose center lies outside the box.
        mode: `bilinear` or `nearest`.

    Raises:
        OptionError: The mode is another one.
    """
    if mode not in MODES[:2]:
        raise OptionError(f"a map is placed with the interpolation bilinear or nearest, not {mode!r}")
    left, top, right, bottom = box
    placed = torch.full(size, outside)
    (rows, y), (cols, x) = _inside(top, bottom, size[0]), _inside(left, right, size[1])
    if len(y) and len(x):
        values = _along(_along(attribution.float(), y, mode).T, x, mode).T
        placed[rows, cols] = values
    return placed


def _inside(low: float, high: float, n: int) -> tuple[slice, Float64[Tensor, " m"]]:
    """Return which pixels of one axis have their center in the box, and where in it they are, from 0 to 1."""
    centers = torch.arange(n, dtype=torch.float64) + 0.5
    within = (centers >= low) & (centers < high)
    first = int(within.int().argmax())
    count = int(within.sum())
    return slice(first, first + count), (centers[first : first + count] - low) / (high - low)


def _along(values: Float[Tensor, "r c"], at: Float64[Tensor, " m"], mode: str) -> Float[Tensor, "m c"]:
    """Read a map at shares of its height."""
    last = len(values) - 1
    if mode == "nearest":
        return values[(at * len(values)).floor().long().clamp(0, last)]
    cell = (at * len(values) - 0.5).clamp(0, last)
    low = cell.floor().long()
    share = (cell - low).to(values)[:, None]
    return torch.lerp(values[low], values[(low + 1).clamp(max=last)], share)


def resize_maps(
    maps: Float[Tensor, "batch r c"], size: tuple[int, int], mode: str = "bilinear"
) -> Float[Tensor, "batch rows cols"]:
    """Resize a batch of maps, each as `resize` does it: part of the protocol, so it is never done silently."""
    return torch.stack([resize(each, size, mode) for each in maps])


def upcast(values: Tensor) -> Tensor:
    """Return float32, or float64 where it was: sums and differences are not taken in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def mean_ranks(values: Float[Tensor, "batch n"]) -> Float64[Tensor, "batch n"]:
    """Rank each row from 1 (least) to n (greatest); equal values share the mean of their ranks.

    As `scipy.stats.rankdata`, on the device of the values and ten times as fast on a CPU for maps of 224 × 224.
    """
    values = values.detach().double()
    if values.device.type == "cpu":  # NumPy sorts with vector instructions: a tenth of torch's time
        order = torch.from_numpy(np.argsort(values.numpy(), axis=1))
    else:
        order = values.argsort(1)
    ordered, n = values.gather(1, order), values.shape[1]
    place = torch.arange(n, device=values.device).expand_as(order)
    new = torch.ones_like(order, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = place.where(new, 0).cummax(1).values
    ends = new.roll(-1, 1)  # a run ends where the next begins; the last one by the first's mark
    last = place.where(ends, n).flip(1).cummin(1).values.flip(1)
    return torch.empty_like(values).scatter_(1, order, (first + last).double() / 2 + 1)


def spearman(a: Float[Tensor, "batch *positions"], b: Float[Tensor, "batch *positions"]) -> Float64[Tensor, "batch"]:
    """Return the rank correlation over all positions of each pair of maps, in float64.

    Ties get their mean rank; a constant map has NaN. As `scipy.stats.spearmanr`, for a whole batch on its device.
    """
    one, two = (mean_ranks(maps.flatten(1)) for maps in (a, b))
    one, two = (ranks - ranks.mean(1, keepdim=True) for ranks in (one, two))
    return (one * two).sum(1) / (one.square().sum(1) * two.square().sum(1)).sqrt()


def ssim(
    a: Float[Tensor, "batch rows cols"], b: Float[Tensor, "batch rows cols"], signed: bool = False
) -> Float64[Tensor, "batch"]:
    """Return the structural similarity of each pair of maps as displayed, each normalized by itself.

    Windows of 7 × 7, as scikit-image's `structural_similarity`, for a whole batch on its device.

    Args:
        a: Maps.
        b: The maps that they are compared with.
        signed: Whether they are displayed in [-1, 1] instead of [0, 1].
    """
    one, two = (normalize(maps.double(), signed)[:, None] for maps in (a, b))
    side = min(7, *a.shape[1:])

    def mean(maps: Tensor) -> Tensor:
        pooled: Tensor = F.avg_pool2d(maps, kernel_size=side, stride=1)
        return pooled

    unbiased = side**2 / max(1, side**2 - 1)
    mean1, mean2 = mean(one), mean(two)
    variances = unbiased * (mean(one * one) - mean1 * mean1 + mean(two * two) - mean2 * mean2)
    covariance = unbiased * (mean(one * two) - mean1 * mean2)
    c1, c2 = ((k * (2 if signed else 1)) ** 2 for k in (0.01, 0.03))  # (k · range of the values)²
    similarity: Tensor = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean1 * mean1 + mean2 * mean2 + c1) * (variances + c2))
    return similarity.mean((1, 2, 3))
