"""Relevance Mass Accuracy: how much of the relevance is on the object?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import pixels


@metric(
    name="relevance_mass_accuracy",
    title="Relevance Mass Accuracy",
    summary="All positive relevance lies on the object.",
    needs={Requirement.MASK},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Arras et al., CLEVR-XAI (2022)",
)
class RelevanceMassAccuracy(Metric):
    """Σ over the mask / Σ over all pixels, of the positive values.

    Quantus sums signed maps as they are: negative values outside then raise the score above 1, and the sum below can
    be zero. With `absolute` both agree with Quantus' `abs=True`. A map without a positive value has no score.
    """

    absolute: bool = option(default=False, help="|value| in place of the positive part")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the maps without a positive pixel."""
        return {"no pixel that counts is positive": ~(pixels(maps, inputs, self.absolute).values > 0).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the share of the positive values in the mask."""
        flat = pixels(maps, inputs, self.absolute)
        mass = flat.positive
        return Measurement((mass * flat.inside(inputs.masks)).sum(1) / mass.sum(1))
