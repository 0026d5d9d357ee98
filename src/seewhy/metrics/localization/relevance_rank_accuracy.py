"""Relevance Rank Accuracy: are the highest pixels, as many as the object has, on the object?"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import ascending, kth_largest, pixels, top_weights


@metric(
    name="relevance_rank_accuracy",
    title="Relevance Rank Accuracy",
    summary="The highest pixels, as many as the object has, are the object.",
    needs={Requirement.MASK},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Arras et al., CLEVR-XAI (2022)",
    monotone_invariant=True,
)
class RelevanceRankAccuracy(Metric):
    """Share of the K highest pixels that lie inside the mask, K = pixels of the mask.

    Ties at the K-th value count by share, as in Top-K Intersection: a constant map gets the mask's share of the
    image. A mask that covers everything gives 1.
    """

    absolute: bool = option(default=False, help="look at |value|")

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the share of the K highest pixels in the mask."""
        flat = pixels(maps, inputs, self.absolute)
        inside, ranked = flat.inside(inputs.masks), flat.ranked
        k = inside.sum(1)
        weights = top_weights(ranked, kth_largest(ascending(ranked), k), k)
        return Measurement((weights * inside).sum(1) / k)
