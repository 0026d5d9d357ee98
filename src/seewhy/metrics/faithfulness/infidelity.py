"""Infidelity: how wrong the map is about what the score loses when a random box is perturbed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric, option
from seewhy.metrics.faithfulness.box_perturbation import GRID, BoxMetric
from seewhy.metrics.faithfulness.perturbation import baseline_images


@metric(
    name="infidelity",
    title="Infidelity",
    summary="The mean squared error of the map as a forecast of what the score loses; 0 is right.",
    needs={Requirement.MODEL},
    bounds=(0.0, None),
    higher_is_better=False,
    citation="Yeh et al., On the (In)fidelity and Sensitivity of Explanations (NeurIPS 2019), definition 2.1",
    passes=lambda self: len(self.sizes) * self.draws + 1,
    stochastic=True,
)
class Infidelity(BoxMetric):
    """E_I (β Σ_ij M_ij Σ_c I_cij − (f(x) − f(x − I)))², I = x − baseline in a random box and 0 outside ("square
    removal"); in squared units of the score. The map stands for every channel, as in Quantus.

    `scale="best"` takes β = E(M·I Δf) / E(M·I)², as the authors' code and captum's `normalize`: maps of different
    units can then be compared. `scale="none"`, β = 1, is Quantus' and captum's default, and says something only of
    maps in units of the gradient. `times="map"` leaves I out (Σ M in the box), for maps that are contributions already.

    Boxes as in `BoxSensitivity`, which has asked for them already if sizes, draws and baseline are the same. Quantus
    walks over a grid of patches and does not put back what it has removed, so its later perturbations hold all earlier
    ones; ours are independent, as in the paper.
    """

    sizes: Sequence[float] = option((3, 6, 9), f"sides of the boxes, in {GRID}ths of the image's shorter side")
    scale: str = option("best", "the factor of the map: that of least error, or none", choices=("best", "none"))
    times: str = option(
        "change", "what a pixel's value is multiplied by: its change, or only itself", choices=("change", "map")
    )

    @property
    def axis(self) -> None:
        """No curve: the boxes of all sizes are one sample."""
        return None

    def compare(self, maps: Tensor, given: MetricInputs) -> Measurement:
        losses = torch.cat(self.losses(given), 1)
        change = 1.0 if self.times == "map" else (given.x - baseline_images(given, self.baseline)).double().sum(1)
        forecast = torch.cat(self.sums(maps.double() * change), 1)
        if self.scale == "best":
            power = forecast.square().mean(1, keepdim=True)
            beta = (forecast * losses).mean(1, keepdim=True) / power
            forecast = forecast * torch.where(power > 0, beta, 0.0)  # a map of zeros foretells nothing
        return Measurement((forecast - losses).square().mean(1))
