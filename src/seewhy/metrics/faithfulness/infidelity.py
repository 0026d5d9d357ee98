"""Infidelity: how wrong the map is about what the score loses when a random box is perturbed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, MetricInputs, metric, option
from seewhy.metrics.faithfulness.perturbation import baseline_images
from seewhy.metrics.faithfulness.random_boxes import GRID, RandomBoxes


@metric(
    name="infidelity",
    title="Infidelity",
    summary="The mean squared error of the map as a forecast of what the score loses; 0 is right.",
    needs={Requirement.MODEL},
    bounds=(0.0, None),
    higher_is_better=False,
    citation="Yeh et al., On the (In)fidelity and Sensitivity of Explanations (NeurIPS 2019), definition 2.1",
    passes=lambda self: len(self.sizes) * self.n_samples + 1,
    unit="score²",
    stochastic=True,
)
class Infidelity(RandomBoxes):
    """E_I (β Σ_ij M_ij Σ_c I_cij − (f(x) − f(x − I)))², in squared units of the score.

    I = x − baseline in a random box and 0 outside ("square removal"). The map stands for every channel, as in Quantus.

    `scale="best"` takes β = E(M·I Δf) / E(M·I)², as the authors' code and captum's `normalize`: maps of different
    units can then be compared. `scale="none"`, β = 1, is Quantus' and captum's default, and says something only of
    maps in units of the gradient. `times="map"` leaves I out (Σ M in the box), for maps that are contributions already.

    Boxes as in `BoxSensitivity`, which shares its passes if sizes, n_samples and baseline are the same. Quantus
    walks over a grid of patches and does not put back what it has removed, so its later perturbations hold all earlier
    ones; ours are independent, as in the paper.
    """

    sizes: Sequence[float] = option(
        default=(3, 6, 9), help=f"sides of the boxes, in {GRID}ths of the image's shorter side"
    )
    scale: str = option(
        default="best", help="the factor of the map: that of least error, or none", choices=("best", "none")
    )
    times: str = option(
        default="change",
        help="what a pixel's value is multiplied by: its change, or only itself",
        choices=("change", "map"),
    )

    @property
    def axis(self) -> list[float] | None:
        """None: the boxes of all sizes are one sample, there is no curve."""
        return None

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the mean squared error of the map's forecast."""
        losses = torch.cat(self.score_losses(inputs), 1)
        weighted = maps.double()
        if self.times == "change":
            removed = inputs.model_inputs.x - baseline_images(inputs, self.baseline)
            weighted = weighted * removed.double().sum(1)
        forecast = torch.cat(self.map_sums(weighted), 1)
        if self.scale == "best":
            power = forecast.square().mean(1, keepdim=True)
            beta = (forecast * losses).mean(1, keepdim=True) / power
            forecast = forecast * torch.where(power > 0, beta, 0.0)  # a map of zeros has no best factor
        return Measurement((forecast - losses).square().mean(1))
