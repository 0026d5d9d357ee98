"""Box sensitivity: does the map foretell what the score loses when a random box is blurred?"""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric
from seewhy.metrics.faithfulness.perturbation import area
from seewhy.metrics.faithfulness.random_boxes import RandomBoxes


@metric(
    name="box_sensitivity",
    title="Box sensitivity",
    summary="The more importance a box holds, the more the score loses when it is blurred.",
    needs={Requirement.MODEL},
    bounds=(-27.0, 27.0),
    higher_is_better=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, section 3.5",
    passes=lambda self: len(self.sizes) * self.n_samples + 1,
    unit="patches",
    stochastic=True,
)
class BoxSensitivity(RandomBoxes):
    """A_box = ∫ r(s) ds, r(s) the Pearson correlation between Σ map in a box and f(x) − f(x with the box blurred).

    Over `n_samples` random s × s boxes for each side s, counted in patches of 1/28 of the shorter side of the image,
    the paper's 224 px in patches of 8; trapezoid over s, so the greatest possible value is the largest s minus the
    smallest (26 with the default sizes; the paper's figure covers 1 … 28). Boxes lie inside the image, at any pixel.
    The default takes every third size where the paper takes all: `sizes=range(1, 28)` costs 2701 passes. A box of 28
    covers a square image, always at the same place: no correlation, 0.

    The model scores boxes, not maps: the passes are for an image and target, whatever the number of maps.
    r is 0 for a size where the sums or the scores do not vary. Values change a little with `seed`.
    """

    least_sizes = 2

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the area under the correlations by size."""
        curve = self.correlations(maps, inputs)
        return Measurement(area(curve, self.sizes), {}, {"": curve})
