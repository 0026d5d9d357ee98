"""The pixels of a batch of maps as rows of numbers, and what ties at a rank mean.

Whatever only looks at the values of a map starts here, so that pixels that do not count (`MetricInputs.valid`) and
ties are treated alike everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from seewhy.metrics.inputs import MetricInputs, required


@dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels of a batch of maps, one row per map.

    Attributes:
        values: float64; 0 where a pixel does not count.
        valid: Which pixels count.
    """

    values: Float64[Tensor, "batch n"]
    valid: Bool[Tensor, "batch n"]

    @property
    def count(self) -> Int[Tensor, "batch"]:
        """The number of pixels that count."""
        return self.valid.sum(1)

    @property
    def ranked(self) -> Float64[Tensor, "batch n"]:
        """The values, below all others where a pixel does not count."""
        return self.values.masked_fill(~self.valid, -torch.inf)

    @property
    def positive(self) -> Float64[Tensor, "batch n"]:
        """The values, 0 for negative ones."""
        return self.values.clamp(min=0)

    def inside(self, masks: Bool[Tensor, "batch rows cols"] | None) -> Bool[Tensor, "batch n"]:
        """Return the pixels of a mask that count."""
        return required(masks, "masks").to(self.valid.device).flatten(1) & self.valid


def pixels(maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs, absolute: bool = False) -> Pixels:
    """Return the maps' pixels, or their magnitudes."""
    values = maps.flatten(1).double()
    if absolute:
        values = values.abs()
    if inputs.valid is None:
        return Pixels(values, torch.ones_like(values, dtype=torch.bool))
    valid = inputs.valid.to(maps.device).flatten(1)
    return Pixels(values.masked_fill(~valid, 0), valid)


def top_weights(
    ranked: Float64[Tensor, "batch n"], kth: Float64[Tensor, "batch"], k: Int[Tensor, "batch"]
) -> Float64[Tensor, "batch n"]:
    """Return how much of each pixel is among the k highest: 1, 0, or for ties their share.

    Of m pixels with the k-th value of which only j fit, each is in with j/m: what choosing at random gives on average.
    The weights of a row add up to k.

    Args:
        ranked: The values.
        kth: The k-th highest value of each row.
        k: How many pixels of each row.
    """
    above, level = ranked > kth[:, None], ranked == kth[:, None]
    share = (k - above.sum(1)).double() / level.sum(1)
    return above + level * share[:, None]


def ascending(values: Float64[Tensor, "batch n"]) -> Float64[Tensor, "batch n"]:
    """Return each row in ascending order."""
    if values.device.type == "cpu":  # NumPy sorts with vector instructions: a tenth of torch's time
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(1).values


def kth_largest(ordered: Float64[Tensor, "batch n"], k: Int[Tensor, "batch"]) -> Float64[Tensor, "batch"]:
    """Return the k-th largest value of each row in ascending order, k from 1."""
    return ordered.gather(1, ordered.shape[1] - k[:, None])[:, 0]


__all__ = ["Pixels", "ascending", "kth_largest", "pixels", "top_weights"]
