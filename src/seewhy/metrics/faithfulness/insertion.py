"""Insertion: how soon the class is recognized when the most important pixels appear first."""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric
from seewhy.metrics.faithfulness.perturbation import area
from seewhy.metrics.faithfulness.perturbation_order import PerturbationOrder
from seewhy.metrics.faithfulness.pixel_curves import PixelCurves


@metric(
    name="insertion",
    title="Insertion",
    summary="The class is recognized as soon as the most important pixels appear.",
    needs={Requirement.MODEL},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Petsiuk et al., RISE (BMVC 2018), section 4.2; Hirano et al., Attention Lattice Adapter (2024)",
    passes=lambda self: self.n_steps + 1,
    monotone_invariant=True,
)
class Insertion(PixelCurves):
    """∫ p_c(i_n) dn / (H·W), i_n: the baseline with the n most important pixels of the image; in [0, 1].

    p_c is the probability of the class; a target that is no class gives its own score, which may leave [0, 1]. The
    baseline is zero after normalization, the mean color of the training data (the ALA paper's equation, on the model's
    input); RISE starts from a blurred image: `baseline="rise_blur"`, as in its code (`blur` has σ = side/16).
    A step is H·W / `n_steps` pixels: 224 of them at 224 × 224, as in RISE. Ties go row by row from the top.
    """

    @property
    def axis_title(self) -> str:
        """The label of the abscissa."""
        return "share of the pixels inserted"

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the area under the curve."""
        (curve,) = self.probabilities(maps, inputs, PerturbationOrder("most", self.baseline, reveal=True))
        return Measurement(area(curve, self.axis), {}, {"": curve})
