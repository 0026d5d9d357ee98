"""Entropy: over how many pixels is the map spread?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import pixels


@metric(
    name="entropy",
    title="Entropy",
    summary="A low value: the map is spread over few pixels.",
    needs=set(),
    bounds=(0.0, None),
    higher_is_better=False,
    citation="Bhatt et al., Evaluating and Aggregating Feature-based Model Explanations (2020): complexity",
)
class Entropy(Metric):
    """H = −Σ p ln p with p = |a| / Σ |a|, in nats: Quantus' Complexity. ln n for a constant map, 0 for one pixel.

    `normalized` divides by ln n, so that sizes compare: 0 … 1. The sign of a value does not matter. A map of zeros has
    no score; nor has one pixel alone, normalized.
    """

    normalized: bool = option(default=False, help="divide by the entropy of a constant map")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the maps of zeros or of one pixel."""
        flat = pixels(maps, inputs)
        flags = {"every pixel that counts is zero": ~flat.values.any(1)}
        if self.normalized:
            flags["a map of one pixel can be spread in one way only"] = flat.count < 2
        return flags

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the entropy."""
        flat = pixels(maps, inputs, absolute=True)
        value = torch.special.entr(flat.values / flat.values.sum(1, keepdim=True)).sum(1)
        return Measurement(value / flat.count.double().log() if self.normalized else value)
