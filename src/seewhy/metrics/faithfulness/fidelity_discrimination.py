"""Class discrimination by fidelity: does the map of another class do worse for this class's score?"""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric
from seewhy.metrics.faithfulness.fidelity import MIFLIF
from seewhy.metrics.faithfulness.perturbation import area


@metric(
    name="fidelity_discrimination",
    title="Class discrimination by fidelity",
    summary="Fidelity is lost when the map of another class present in the image is taken instead.",
    needs={Requirement.MODEL, Requirement.CONTRAST},
    bounds=(None, None),
    higher_is_better=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 7",
    passes=lambda self: 4 * self.steps - 2,
    parts={"own": True, "contrast": False},
    monotone_invariant=True,
)
class FidelityDiscrimination(MIFLIF):
    """ΔA_LIF−MIF = A_LIF−MIF − A_LIF′−MIF′: fidelity of the map minus that of the rival's map; in score · percent.

    Both are measured on the score of the map's own class. 0 for a method that does not look at the class. Options and
    curves as for `Fidelity`; after it, for the same maps and options, only the rival's curves are asked.
    """

    def compare(self, maps: Tensor, given: MetricInputs) -> Measurement:
        own_mif, own_lif = self.mif_lif(maps, given)
        rival_mif, rival_lif = self.mif_lif(given.contrast_maps, given, keep=False)
        own, rival = own_lif - own_mif, rival_lif - rival_mif
        parts = {"own": area(own, self.axis), "contrast": area(rival, self.axis)}
        return Measurement(parts["own"] - parts["contrast"], parts, {"": own - rival, "own": own, "contrast": rival})
