"""mIoU: does the map's region coincide with the object?"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.localization.thresholds import RULES, check_rule, mask_iou, region
from seewhy.metrics.masked_values import pixels


@metric(
    name="miou",
    title="mIoU",
    summary="The region above the threshold is the object.",
    needs={Requirement.MASK},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Hirano et al., Attention Lattice Adapter (2024); Otsu, A threshold selection method from gray-level "
    "histograms (1979)",
)
class MeanIoU(Metric):
    """Intersection over union of the mask and the pixels above a threshold; the mean over images is mIoU.

    Rules: `max`: a share of the map's maximum (0.5); `mean`: the map's mean; `otsu`: Otsu's, of 256 bins; `best`: the
    share of the maximum that was best on validation images (`thresholds.best_level`), given as `level`. The rule moves
    the score more than many methods do, so it is stored with it; the ALA paper does not name its own.
    A region of no pixels gives 0. Negative values are below every `max` threshold.
    """

    rule: str = option(default="max", help="how the threshold is chosen", choices=RULES)
    level: float | None = option(default=None, help="share of the maximum, for the rules max (default 0.5) and best")
    absolute: bool = option(default=False, help="look at |value|")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.rule, self.level)

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the IoU of the mask and the region above the threshold."""
        flat = pixels(maps, inputs, self.absolute)
        return Measurement(mask_iou(region(flat, self.rule, self.level), flat.inside(inputs.masks)))
