"""Class discrimination by box sensitivity: does the map of another class follow this class's score less?"""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric
from seewhy.metrics.faithfulness.perturbation import area
from seewhy.metrics.faithfulness.random_boxes import RandomBoxes
from seewhy.metrics.inputs import required


@metric(
    name="box_discrimination",
    title="Class discrimination by box sensitivity",
    summary="Box sensitivity is lost when the map of another class present in the image is taken instead.",
    needs={Requirement.MODEL, Requirement.CONTRAST},
    bounds=(-54.0, 54.0),
    higher_is_better=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 8",
    passes=lambda self: len(self.sizes) * self.n_samples + 1,
    unit="patches",
    parts={"own": True, "contrast": False},
    stochastic=True,
)
class BoxDiscrimination(RandomBoxes):
    """ΔA_box = A_box − A_box′: box sensitivity of the map minus that of the contrast map, on the map's own class.

    Options as for `BoxSensitivity`, after which, with the same options, it costs no pass.
    """

    least_sizes = 2

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the box sensitivity of both maps and their difference."""
        own = self.correlations(maps, inputs)
        contrast = self.correlations(required(inputs.contrast_maps, "contrast_maps"), inputs)
        parts = {"own": area(own, self.sizes), "contrast": area(contrast, self.sizes)}
        curves = {"": own - contrast, "own": own, "contrast": contrast}
        return Measurement(parts["own"] - parts["contrast"], parts, curves)
