"""Top-K Intersection: how many of the highest pixels are on the object?"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.errors import OptionError
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import pixels, top_weights


@metric(
    name="top_k_intersection",
    title="Top-K Intersection",
    summary="The map's k highest pixels lie on the object.",
    needs={Requirement.MASK},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Theiner et al., Interpretable Semantic Image Geolocation (2022)",
    monotone_invariant=True,
)
class TopKIntersection(Metric):
    """Share of the k highest pixels that lie inside the mask.

    k is 1000 pixels (the LaFAM paper), or all where fewer count; or a fraction of the pixels that count, rounded up.
    If only some of the pixels with the k-th value fit, all of them count with the share that fits (Quantus takes
    whichever its sort puts first). An object smaller than k cannot reach 1.
    """

    k: int = option(default=1000, help="pixels", at_least=1)
    fraction: float | None = option(default=None, help="of the image, in place of k", at_least=0)
    absolute: bool = option(default=False, help="look at |value|")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise OptionError(f"fraction={self.fraction!r} is out of range; use more than 0 and at most 1")

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the share of the k highest pixels in the mask."""
        flat = pixels(maps, inputs, self.absolute)
        ranked, count, n = flat.ranked, flat.count, flat.values.shape[1]
        if self.fraction is None:
            most, k = min(self.k, n), count.clamp(max=self.k)
        else:
            most, k = math.ceil(self.fraction * n), (self.fraction * count.double()).ceil().long()
        highest = torch.topk(ranked, most, dim=1).values  # `most` is the largest k, known without asking the device
        weights = top_weights(ranked, highest.gather(1, k[:, None] - 1)[:, 0], k)
        return Measurement((weights * flat.inside(inputs.masks)).sum(1) / k)
