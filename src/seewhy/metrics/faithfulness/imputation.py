"""Linear imputation: a removed pixel becomes the mean of its neighbors. A helper of ROAD."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.maps import upcast

TOLERANCE = 1e-5
"""Of the residual, relative; the noise that ROAD adds is far larger."""

CPU_CHUNK = 100_000
"""Numbers of the variants that a CPU solves together: one of 224 × 224, three of 96 × 96."""

CHECK_EVERY = 10
"""Iterations between two looks at the residual, each a synchronization with the device."""


def impute(
    image: Float[Tensor, "channels height width"],
    removed: Bool[Tensor, "variants height width"],
    tolerance: float = TOLERANCE,
) -> Float[Tensor, "variants channels height width"]:
    """Make every removed pixel the weighted mean of its 8 neighbors (sides 1/6, corners 1/12), removed ones included.

    Neighbors outside of the image do not count. Solved by conjugate gradients on the image's grid (the system is
    symmetric and positive), from coarse to fine. Where all pixels are removed nothing is known, and the mean color of
    the image is taken.

    Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods (ICML 2022), section 4.

    Args:
        image: One image.
        removed: The pixels that are removed in each variant.
        tolerance: Of the residual, relative to the image.

    Returns:
        The variants, in float32 at least.
    """
    image = upcast(image)
    # on a CPU as many variants as stay in the cache (a fifth of the time); a GPU wants all of them at once
    parts = removed.split(max(1, CPU_CHUNK // image.numel()) if image.device.type == "cpu" else len(removed))
    return torch.cat([_impute(image, part, tolerance) for part in parts])


def _impute(image: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    known = (~removed[:, None]).to(image)
    filled = _fill_holes(image * known, known, tolerance)
    any_known = known.flatten(1).any(1)[:, None, None, None]
    return torch.where(any_known, filled, image.mean((1, 2))[:, None, None])


def _fill_holes(values: Tensor, known: Tensor, tolerance: float) -> Tensor:
    """Return the image with its holes filled.

    A start that is right on the next coarser grid leaves little to do.

    Args:
        values: Image · `known`.
        known: The share of each cell that is known.
        tolerance: As in `impute`.
    """
    rows, cols = values.shape[-2:]
    image = values / known.clamp(min=torch.finfo(values.dtype).tiny)
    if max(rows, cols) <= 1:
        return image
    halved = [F.avg_pool2d(t, 2, ceil_mode=True, count_include_pad=False) for t in (values, known)]
    coarse = _fill_holes(halved[0], halved[1], tolerance)
    size = (2 * coarse.shape[-2], 2 * coarse.shape[-1])
    start = F.interpolate(coarse, size, mode="bilinear", align_corners=False)[..., :rows, :cols]
    return _solve_unknown(torch.where(known > 0, image, start), (known == 0).to(values), tolerance)


def _solve_unknown(start: Tensor, unknown: Tensor, tolerance: float) -> Tensor:
    """Return `start` with its unknown pixels the means of their neighbors."""
    system = partial(_minus_neighbors, _neighbor_sum(torch.ones_like(unknown[:1])), unknown)
    return start + _conjugate_gradients(system, -system(start), start * unknown, tolerance)


def _minus_neighbors(weight: Tensor, unknown: Tensor, v: Tensor) -> Tensor:
    """Return the value of each unknown pixel minus what its neighbors give."""
    return (weight * v - _neighbor_sum(v)).mul_(unknown)


def _neighbor_sum(v: Tensor) -> Tensor:
    """Return the weighted sum of the 8 neighbors: (1 2 1) ⊗ (1 2 1) without its center, over 12."""
    v = F.pad(v, (1, 1, 1, 1))
    across = (v[..., :-2] + v[..., 2:]).add_(v[..., 1:-1], alpha=2)
    return (
        (across[..., :-2, :] + across[..., 2:, :])
        .add_(across[..., 1:-1, :], alpha=2)
        .sub_(v[..., 1:-1, 1:-1], alpha=4)
        .div_(12)
    )


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor], residual: Tensor, scale: Tensor, tolerance: float
) -> Tensor:
    """Return what to add to the start; each variant and channel has its own steps."""
    limit = (tolerance * scale.square().mean((2, 3), keepdim=True).sqrt()).square() * scale.shape[-1] * scale.shape[-2]
    tiny = torch.finfo(residual.dtype).tiny
    solution, direction = torch.zeros_like(residual), residual.clone()
    power = residual.square().sum((2, 3), keepdim=True)
    for iteration in range(20 * max(residual.shape[-2:])):
        if iteration % CHECK_EVERY == 0 and not bool((power > limit).any()):  # NaN will not settle: it counts as done
            break
        image = apply(direction)
        step = power / (direction * image).sum((2, 3), keepdim=True).clamp(min=tiny)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        power, old = residual.square().sum((2, 3), keepdim=True), power
        direction = torch.addcmul(residual, power / old.clamp(min=tiny), direction)
    return solution
