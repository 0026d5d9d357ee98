"""Sparseness: do few pixels hold most of the map?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric
from seewhy.metrics.masked_values import ascending, pixels


@metric(
    name="sparseness",
    title="Sparseness",
    summary="Few pixels hold most of the map.",
    needs=set(),
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Chalasani et al., Concise Explanations of Neural Networks (2020); Gini index: Hurley & Rickard, "
    "Comparing Measures of Sparsity (2009)",
)
class Sparseness(Metric):
    """Gini index of |a|: Σ (2i − n − 1) |a|_(i) / (n Σ |a|), values in ascending order, i = 1 … n.

    0 for a constant map, (n − 1)/n for one pixel. The sign of a value does not matter. Quantus adds 1e-7 to every
    value; a map of zeros therefore has 0 there and no score here.
    """

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the maps of zeros."""
        return {"every pixel that counts is zero": ~pixels(maps, inputs).values.any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the Gini index."""
        flat = pixels(maps, inputs, absolute=True)
        ordered, n = ascending(flat.values), flat.count[:, None]
        skipped = ordered.shape[1] - n  # zeros, so they come first and add nothing
        i = torch.arange(1, ordered.shape[1] + 1, device=maps.device) - skipped
        gini = ((2 * i - n - 1) * ordered).sum(1) / (n[:, 0] * ordered.sum(1))
        return Measurement(gini.clamp(min=0))  # rounding takes a constant map a hair below 0
