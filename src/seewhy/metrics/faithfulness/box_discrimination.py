"""Class discrimination by box sensitivity: does the map of another class follow this class's score less?"""

from __future__ import annotations

from torch import Tensor

from seewhy.metrics.base import Given, Measurement
from seewhy.metrics.faithfulness.asking import area
from seewhy.metrics.faithfulness.boxes import BoxMetric
from seewhy.registry import Ask, metric


@metric(
    name="box_discrimination",
    title="Class discrimination by box sensitivity",
    summary="Box sensitivity is lost when the map of another class present in the image is taken instead.",
    needs={Ask.MODEL, Ask.RIVAL},
    bounds=(-54.0, 54.0),
    higher_is_better=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 8",
    passes=lambda self: len(self.sizes) * self.draws + 1,
    parts={"own": True, "rival": False},
    stochastic=True,
)
class BoxDiscrimination(BoxMetric):
    """ΔA_box = A_box − A_box′: box sensitivity of the map minus that of the rival's map, on the map's own class.

    Options as for `BoxSensitivity`, after which, with the same options, it asks the model nothing.
    """

    least = 2

    def compare(self, maps: Tensor, given: Given) -> Measurement:
        own = self.correlations(maps, given)
        rival = self.correlations(given.rivals, given)
        parts = {"own": area(own, self.axis), "rival": area(rival, self.axis)}
        return Measurement(parts["own"] - parts["rival"], parts, {"": own - rival, "own": own, "rival": rival})
