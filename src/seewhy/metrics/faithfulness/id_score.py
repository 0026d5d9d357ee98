"""ID score: insertion minus deletion, both from one run."""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.methods.baselines import check_baseline
from seewhy.metrics.base import Measurement, MetricInputs, metric, option
from seewhy.metrics.faithfulness.perturbation import BASELINE_HELP, area
from seewhy.metrics.faithfulness.perturbation_order import PerturbationOrder
from seewhy.metrics.faithfulness.pixel_curves import PixelCurves


@metric(
    name="id_score",
    title="Insertion-deletion score",
    summary="The class is recognized soon when the important pixels appear, and lost soon when they vanish.",
    needs={Requirement.MODEL},
    bounds=(-1.0, 1.0),
    higher_is_better=True,
    citation="Hirano et al., Attention Lattice Adapter (2024), section 4; Petsiuk et al., RISE (BMVC 2018), "
    "section 4.2",
    passes=lambda self: 2 * self.n_steps + (self.baseline != self.start),
    parts={"insertion": True, "deletion": False},
    monotone_invariant=True,
)
class IDScore(PixelCurves):
    """Insertion − deletion, in [−1, 1]; both as the metrics of those names, which cost nothing more after it.

    The ALA paper inserts into and deletes to zero; RISE's insertion starts from a blurred image (`start="blur"`).
    """

    baseline: str = option(default="zero", help=f"for deletion, {BASELINE_HELP}")
    start: str = option(default="zero", help=f"for insertion, {BASELINE_HELP}")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_baseline(self.start)

    @property
    def axis_title(self) -> str:
        """The label of the abscissa."""
        return "share of the pixels inserted or deleted"

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the areas under both curves and their difference."""
        insertion, deletion = self.probabilities(
            maps, inputs, PerturbationOrder("most", self.start, reveal=True), PerturbationOrder("most", self.baseline)
        )
        parts = {"insertion": area(insertion, self.axis), "deletion": area(deletion, self.axis)}
        return Measurement(
            parts["insertion"] - parts["deletion"],
            parts,
            {"": insertion - deletion, "insertion": insertion, "deletion": deletion},
        )
