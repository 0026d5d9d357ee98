"""Class discrimination by fidelity: does the map of another class do worse for this class's score?"""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric
from seewhy.metrics.faithfulness.fidelity import FidelityCurves
from seewhy.metrics.faithfulness.perturbation import area
from seewhy.metrics.inputs import required


@metric(
    name="fidelity_discrimination",
    title="Class discrimination by fidelity",
    summary="Fidelity is lost when the map of another class present in the image is taken instead.",
    needs={Requirement.MODEL, Requirement.CONTRAST},
    bounds=(None, None),
    higher_is_better=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 7",
    passes=lambda self: 4 * self.n_steps - 2,
    unit="score · %",
    parts={"own": True, "contrast": False},
    monotone_invariant=True,
)
class FidelityDiscrimination(FidelityCurves):
    """ΔA_LIF−MIF = A_LIF−MIF − A_LIF′−MIF′: fidelity of the map minus that of the contrast map; in score · percent.

    Both are measured on the score of the map's own class. 0 for a method that does not look at the class. Options and
    curves as for `Fidelity`; after it, for the same maps and options, only the contrast map's curves are computed.
    """

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the fidelity of both maps and their difference."""
        contrast_maps = required(inputs.contrast_maps, "contrast_maps")
        own_mif, own_lif = self.mif_lif(maps, inputs)
        contrast_mif, contrast_lif = self.mif_lif(contrast_maps, inputs, keep=False)
        own, contrast = own_lif - own_mif, contrast_lif - contrast_mif
        parts = {"own": area(own, self.axis), "contrast": area(contrast, self.axis)}
        curves = {"": own - contrast, "own": own, "contrast": contrast}
        return Measurement(parts["own"] - parts["contrast"], parts, curves)
