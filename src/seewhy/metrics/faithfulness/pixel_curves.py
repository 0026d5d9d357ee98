"""Base of the metrics that follow the class's probability while pixels appear or vanish."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from seewhy.metrics.base import MetricInputs, option
from seewhy.metrics.faithfulness.perturbation import BASELINE_HELP, ModelMetric, shares
from seewhy.metrics.faithfulness.perturbation_order import PerturbationOrder, perturbation_curves


@dataclass(kw_only=True, eq=False)
class PixelCurves(ModelMetric):
    """Options and curves of insertion, deletion and their difference."""

    n_steps: int = option(
        default=224,
        help="steps from none to all of the pixels; a step is H·W / n_steps pixels",
        at_least=1,
        repeats=True,
    )
    baseline: str = option(default="zero", help=BASELINE_HELP)

    @property
    def axis(self) -> list[float]:
        """Shares of the pixels, 0 … 1."""
        return shares(self.n_steps)

    def probabilities(
        self, maps: Tensor, inputs: MetricInputs, *orders: PerturbationOrder
    ) -> list[Float[Tensor, "batch points"]]:
        """Return the curve for each order at `axis`."""
        return perturbation_curves(
            maps, inputs, orders, n_steps=self.n_steps, read_out="probability", batch_size=self.batch_size
        )
