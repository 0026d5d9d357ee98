"""Attribution Localization: how much of the relevance, of either sign, is on the object?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import Pixels, pixels


@metric(
    name="attribution_localization",
    title="Attribution Localization",
    summary="All relevance, for and against, lies on the object.",
    needs={Requirement.MASK},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Kohlbrenner et al., Towards Best Practice in Explaining Neural Network Decisions with LRP (2020)",
    parts={"weighted": True},
)
class AttributionLocalization(Metric):
    """μ = Σ |value| over the mask / Σ |value| over all pixels; `weighted` = μ · pixels / pixels of the mask.

    1 in `weighted` is what a constant map gets. Quantus' `weighted` multiplies by the mask's share in place
    of dividing by it, and takes that share of the whole batch from the third image on. `positive` drops negative
    values; then μ is Relevance Mass Accuracy. A map of zeros has no score (0 in Quantus).
    """

    positive: bool = option(default=False, help="look at positive values only")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the maps without relevance."""
        why = "no pixel that counts is positive" if self.positive else "every pixel that counts is zero"
        return {why: ~(self._pixels(maps, inputs).values > 0).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute both shares."""
        flat = self._pixels(maps, inputs)
        mass, inside = flat.positive, flat.inside(inputs.masks)
        value = (mass * inside).sum(1) / mass.sum(1)
        return Measurement(value, {"weighted": value * flat.count / inside.sum(1)})

    def _pixels(self, maps: Tensor, inputs: MetricInputs) -> Pixels:
        return pixels(maps, inputs, absolute=not self.positive)
