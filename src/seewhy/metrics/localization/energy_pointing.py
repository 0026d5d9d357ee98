"""Energy-based Pointing Game: how much of the relevance is in the objects' boxes?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.boxes import pad_boxes, pixels_in_boxes
from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.inputs import required
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

    absolute: bool = option(default=False, help="|value| in place of the positive part")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the boxes without a pixel, and maps without a positive one."""
        flat = pixels(maps, inputs, self.absolute)
        return {
            "no box covers a pixel": ~flat.inside(_pixels_in_boxes(maps, inputs)).any(1),
            "no pixel that counts is positive": ~(flat.values > 0).any(1),
        }

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the share of the positive values in the boxes."""
        flat = pixels(maps, inputs, self.absolute)
        mass = flat.positive
        return Measurement((mass * flat.inside(_pixels_in_boxes(maps, inputs))).sum(1) / mass.sum(1))


def _pixels_in_boxes(maps: Tensor, inputs: MetricInputs) -> Bool[Tensor, "batch rows cols"]:
    return pixels_in_boxes(pad_boxes(required(inputs.boxes, "boxes"), maps.device), *maps.shape[-2:])
