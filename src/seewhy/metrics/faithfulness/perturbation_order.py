"""Curves of the model's score while pixels change in the order of a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from seewhy.metrics.faithfulness.perturbation import (
    READOUTS,
    baseline_images,
    baseline_scores,
    image_scores,
    score_variants,
    select_pixels,
)
from seewhy.metrics.inputs import MetricInputs


@dataclass(frozen=True)
class PerturbationOrder:
    """Order in which an image's pixels change along a curve.

    Attributes:
        first: Which pixels change first, the "most" or the "least" important.
        baseline: What stands for removed pixels.
        reveal: Whether the curve goes from the baseline to the image; else from the image to the baseline.
    """

    first: str
    baseline: str
    reveal: bool = False


def rank_pixels(maps: Float[Tensor, "batch rows cols"], first: str) -> Int[Tensor, "batch rows cols"]:
    """Return each pixel's rank from 0, with the "most" or the "least" important first.

    Ties go row by row from the top in both orders, so that a constant map has the same curve in both.
    """
    values = maps.flatten(1) if first == "most" else -maps.flatten(1)
    order = values.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(order.shape[1], device=order.device, dtype=torch.int32).expand(order.shape)
    return torch.empty_like(ranks).scatter_(1, order, ranks).view(maps.shape)


def perturbation_curves(
    maps: Float[Tensor, "batch rows cols"],
    inputs: MetricInputs,
    orders: Sequence[PerturbationOrder],
    *,
    n_steps: int,
    read_out: str,
    batch_size: int,
    keep: bool = True,
) -> list[Float64[Tensor, "batch points"]]:
    """Return the score after 0, 1 … `n_steps` equal shares of the pixels have changed, for each order.

    Args:
        maps: The maps that rank the pixels.
        inputs: The model, the images and the target. The ends of the curves are scored once for all maps.
        orders: How the images change.
        n_steps: Steps from none to all of the pixels.
        read_out: What is read off the model, one of `READOUTS`.
        batch_size: Variants per forward pass.
        keep: Whether the curves stay in `inputs.cache` until those of other maps replace them, for the next metric
            that needs them. Insertion and deletion after the ID score of the same maps then cost no pass, class
            discrimination by fidelity after fidelity half of its passes.
    """
    curves: dict[PerturbationOrder, Tensor] = {}
    for order in orders:
        cached = _cached_curve(inputs, maps, (order, n_steps, read_out))
        if cached is not None:
            curves[order] = cached
    missing = [order for order in orders if order not in curves]
    if missing:
        inner = _inner_points(maps, inputs, missing, n_steps, read_out, batch_size)
        for order, points in zip(missing, inner, strict=True):
            first = image_scores(inputs, read_out, batch_size)
            last = baseline_scores(inputs, read_out, order.baseline, batch_size)
            if order.reveal:
                first, last = last, first
            curves[order] = torch.cat([first[:, None], points, last[:, None]], 1)
            if keep:
                _cache_curve(inputs, maps, (order, n_steps, read_out), curves[order])
    return [curves[order] for order in orders]


def _inner_points(
    maps: Tensor,
    inputs: MetricInputs,
    orders: Sequence[PerturbationOrder],
    n_steps: int,
    read_out: str,
    batch_size: int,
) -> list[Float64[Tensor, "batch points"]]:
    """Return the curves without their ends; all orders share the passes."""
    x = inputs.model_inputs.x
    ranks = {first: rank_pixels(maps, first) for first in {order.first for order in orders}}
    baselines = {order.baseline: baseline_images(inputs, order.baseline) for order in orders}
    n_inner, pixels = n_steps - 1, maps[0].numel()
    rounded = [(2 * k * pixels + n_steps) // (2 * n_steps) for k in range(1, n_steps)]  # k · pixels / n_steps
    changed_counts = torch.tensor(rounded, dtype=torch.int32).to(maps.device)[:, None, None]

    def write_variants(image: int, start: int, stop: int, out: Tensor) -> None:
        for number, order in enumerate(orders):
            offset = number * n_inner  # the variants of this order are numbers offset … offset + n_inner − 1
            low, high = max(start - offset, 0), min(stop - offset, n_inner)
            if low >= high:
                continue
            changed = (ranks[order.first][image] < changed_counts[low:high])[:, None]
            before, after = x[image], baselines[order.baseline][image]
            if order.reveal:
                before, after = after, before
            position = offset + low - start
            select_pixels(changed, after, before, out[position : position + high - low])

    target = READOUTS[read_out](inputs.model_inputs)
    scores = score_variants(inputs, target, n_inner * len(orders), write_variants, batch_size)
    return list(scores.view(len(maps), len(orders), n_inner).unbind(1))


class _CachedCurve(NamedTuple):
    """The curve of some maps; the reference to them keeps their memory from being used for others."""

    maps: Tensor
    version: int
    curve: Tensor


def _cached_curve(inputs: MetricInputs, maps: Tensor, key: tuple[object, ...]) -> Tensor | None:
    """Return the curve if the last one that was kept under this key is of these very maps, unchanged since."""
    cached = inputs.cache.get(("curve", *key))
    if cached is None or maps.is_inference():  # inference tensors do not count their changes
        return None
    kept: Tensor = cached.maps
    same_memory = kept.data_ptr() == maps.data_ptr() and kept.device == maps.device
    same_layout = kept.shape == maps.shape and kept.stride() == maps.stride() and kept.dtype == maps.dtype
    return cached.curve if same_memory and same_layout and maps._version == cached.version else None


def _cache_curve(inputs: MetricInputs, maps: Tensor, key: tuple[object, ...], curve: Tensor) -> None:
    if not maps.is_inference():
        inputs.cache["curve", *key] = _CachedCurve(maps, maps._version, curve)
