"""Deletion: how soon the class is lost when the most important pixels vanish first."""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric
from seewhy.metrics.faithfulness.perturbation import area
from seewhy.metrics.faithfulness.perturbation_order import PerturbationOrder
from seewhy.metrics.faithfulness.pixel_curves import PixelCurves


@metric(
    name="deletion",
    title="Deletion",
    summary="The class is lost as soon as the most important pixels vanish.",
    needs={Requirement.MODEL},
    bounds=(0.0, 1.0),
    higher_is_better=False,
    citation="Petsiuk et al., RISE (BMVC 2018), section 4.2; Hirano et al., Attention Lattice Adapter (2024)",
    passes=lambda self: self.n_steps + 1,
    monotone_invariant=True,
)
class Deletion(PixelCurves):
    """∫ p_c(d_n) dn / (H·W), d_n: the image without its n most important pixels; in [0, 1], low is good.

    As `Insertion`, the other way round. Removed pixels are zero after normalization, the mean color of the training
    data, as in RISE's code and the ALA paper's equation; `baseline="black"` is a black image.
    Quantus' `PixelFlipping` has the same curve without its first point for images of one channel; with more it flips
    channel values, not pixels, so that one pass follows each third of a pixel.
    """

    @property
    def axis_title(self) -> str:
        """The label of the abscissa."""
        return "share of the pixels deleted"

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the area under the curve."""
        (curve,) = self.probabilities(maps, inputs, PerturbationOrder("most", self.baseline))
        return Measurement(area(curve, self.axis), {}, {"": curve})
