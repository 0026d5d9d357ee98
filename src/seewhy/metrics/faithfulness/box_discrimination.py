"""Class discrimination by box sensitivity: does the map of another class follow this class's score less?"""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric
from seewhy.metrics.faithfulness.box_perturbation import BoxMetric
from seewhy.metrics.faithfulness.perturbation import area


@metric(
    name="box_discrimination",
    title="Class discrimination by box sensitivity",
    summary="Box sensitivity is lost when the map of another class present in the image is taken instead.",
    needs={Requirement.MODEL, Requirement.CONTRAST},
    bounds=(-54.0, 54.0),
    higher_is_better=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 8",
    passes=lambda self: len(self.sizes) * self.draws + 1,
    parts={"own": True, "contrast": False},
    stochastic=True,
)
class BoxDiscrimination(BoxMetric):
    """ΔA_box = A_box − A_box′: box sensitivity of the map minus that of the rival's map, on the map's own class.

    Options as for `BoxSensitivity`, after which, with the same options, it asks the model nothing.
    """

    least = 2

    def compare(self, maps: Tensor, given: MetricInputs) -> Measurement:
        own = self.correlations(maps, given)
        rival = self.correlations(given.contrast_maps, given)
        parts = {"own": area(own, self.axis), "contrast": area(rival, self.axis)}
        return Measurement(parts["own"] - parts["contrast"], parts, {"": own - rival, "own": own, "contrast": rival})
