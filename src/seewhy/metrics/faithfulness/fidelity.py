"""Fidelity: how much longer the score lasts when the least important pixels are blurred first."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric, option
from seewhy.metrics.faithfulness.perturbation import BASELINE_HELP, ModelMetric, area, shares
from seewhy.metrics.faithfulness.perturbation_order import PerturbationOrder, perturbation_curves


@dataclass(kw_only=True, eq=False)
class FidelityCurves(ModelMetric):
    """Options and curves of fidelity and its class discrimination: most (MIF) and least (LIF) important first."""

    n_steps: int = option(default=20, help="steps from 0 to 100 % of the pixels", at_least=1, repeats=True)
    baseline: str = option(default="blur", help=BASELINE_HELP)

    @property
    def axis(self) -> list[float]:
        """Percent of the pixels, 0 … 100."""
        return shares(self.n_steps, 100.0)

    @property
    def axis_title(self) -> str:
        """The label of the abscissa."""
        return "pixels perturbed (%)"

    def mif_lif(self, maps: Tensor, inputs: MetricInputs, keep: bool = True) -> list[Float[Tensor, "batch points"]]:
        """Return f_MIF and f_LIF at `axis`; `keep` as in `perturbation_curves`."""
        orders = [PerturbationOrder("most", self.baseline), PerturbationOrder("least", self.baseline)]
        return perturbation_curves(
            maps, inputs, orders, n_steps=self.n_steps, read_out="logit", batch_size=self.batch_size, keep=keep
        )


@metric(
    name="fidelity",
    title="Fidelity (LIF − MIF)",
    summary="The score lasts when the least important pixels are blurred first, and falls when the most important are.",
    needs={Requirement.MODEL},
    bounds=(None, None),
    higher_is_better=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, section 3.5",
    passes=lambda self: 2 * self.n_steps,
    unit="score · %",
    parts={"mif": False, "lif": True},
    monotone_invariant=True,
)
class Fidelity(FidelityCurves):
    """A_LIF−MIF = ∫ f_LIF(p) − f_MIF(p) dp, p = 0 … 100 % of the pixels perturbed; in score · percent.

    f is the target's own score (for a class its logit, not the probability); f_MIF perturbs the most important pixels
    first, f_LIF the least important. A perturbed pixel has the value of the blurred image: a Gaussian of 1/16 of the
    shorter side (σ = 14 px at 224, as in the paper; it does not say what happens at other sizes), borders replicated,
    in the model's normalized space, where it is the same image because blurring is linear.

    `n_steps` equal shares of the pixels (the paper gives no number), trapezoid. Ties, as in a map enlarged by
    "nearest", go row by row from the top in both orders: a constant map has A = 0. Step k perturbs
    round(k · H·W / n_steps) pixels. Quantus' `RegionPerturbation` gives f(x) − f_MIF on a map that is constant on its
    patches.
    """

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the areas under both curves and their difference."""
        mif, lif = self.mif_lif(maps, inputs)
        mif_area, lif_area = area(mif, self.axis), area(lif, self.axis)
        parts = {"mif": mif_area, "lif": lif_area}
        return Measurement(lif_area - mif_area, parts, {"": lif - mif, "mif": mif, "lif": lif})
