"""Energy-based Pointing Game: how much of the relevance is in the objects' boxes?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.boxes import pad_boxes, pixels_in_boxes
from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import pixels


@metric(
    name="energy_pointing",
    title="Energy-based Pointing Game",
    summary="All positive relevance lies in the objects' boxes.",
    needs={Requirement.BOXES},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Wang et al., Score-CAM (2020)",
)
class EnergyPointing(Metric):
    """Σ over the boxes / Σ over all pixels, of the positive values; several boxes count as their union.

    A pixel is in a box if its center is. No score where no box covers a pixel, or no pixel is positive.
    """

    absolute: bool = option(False, "|value| in place of the positive part")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        found = pixels(maps, given, self.absolute)
        return {
            "no box covers a pixel": ~found.inside(_covered(maps, given)).any(1),
            "no pixel that counts is positive": ~(found.values > 0).any(1),
        }

    def score(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Measurement:
        found = pixels(maps, given, self.absolute)
        mass = found.positive
        return Measurement((mass * found.inside(_covered(maps, given))).sum(1) / mass.sum(1))


def _covered(maps: Tensor, given: MetricInputs) -> Bool[Tensor, "batch rows cols"]:
    return pixels_in_boxes(pad_boxes(given.boxes, maps.device), *maps.shape[-2:])
