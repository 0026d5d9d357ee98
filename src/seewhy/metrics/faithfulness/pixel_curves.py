"""The class's probability while pixels appear or vanish one share after the other. No metric of its own."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from seewhy.metrics.base import MetricInputs, option
from seewhy.metrics.faithfulness.perturbation import BASELINE_HELP, ModelMetric, Path, curves, shares


@dataclass(kw_only=True, eq=False)
class PixelCurves(ModelMetric):
    """What insertion, deletion and their difference share."""

    steps: int = option(
        224, "steps from none to all of the pixels; a step is H·W / steps pixels", at_least=1, repeats=True
    )
    baseline: str = option("zero", BASELINE_HELP)

    @property
    def axis(self) -> list[float]:
        return shares(self.steps)

    def probabilities(self, maps: Tensor, given: MetricInputs, *paths: Path) -> list[Float[Tensor, "batch points"]]:
        """The curve along each path at `axis`."""
        return curves(maps, given, list(paths), steps=self.steps, goal="probability", batch_size=self.batch_size)
