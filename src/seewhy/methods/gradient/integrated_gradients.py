"""Integrated Gradients: the score's rise from a baseline, shared out among the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.core.maps import spread_over
from seewhy.methods.base import BATCH_SIZE, chunks, images_per_pass, input_gradient, method, option, repeat_target
from seewhy.methods.baselines import BASELINE, check_baseline, starting_images
from seewhy.methods.gradient.channels import PixelShares
from seewhy.targets import Target


@method(
    name="integrated_gradients",
    title="Integrated Gradients",
    summary="How much each pixel adds to the score on the way from an empty image; the map sums to the difference.",
    needs={Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    volumes=True,
    citation="Sundararajan et al., Axiomatic Attribution (ICML 2017), eq. 1-3",
    cost=lambda self: Cost.whole(self.n_steps, self.n_steps),
)
class IntegratedGradients(PixelShares):
    """M_ij = Σ_c (x − x̃)_cij Σ_k w_k ∂f/∂x_cij (x̃ + α_k (x − x̃)).

    Completeness: Σ_ij M_ij → f(x) − f(x̃) as the number of steps grows. Nodes α_k and weights w_k are midpoints
    (default: nearest to completeness for its number of points), right end-points k/n (eq. 3 as it stands), or
    Gauss-Legendre, all on [0, 1]; captum has them as `riemann_middle`, `riemann_right` and `gausslegendre`.

    The paper's x̃ for images is black. The runs of the CDAM paper start from the zero tensor, the mean color, with right
    end-points and the mean over channels: `baseline="zero", rule="right", channels="mean"`. The baseline decides what
    deletion makes of the map.
    """

    n_steps: int = option(default=50, help="points on the path", at_least=1, repeats=True)
    baseline: Any = option(default="black", help=f"where the path starts: {BASELINE}")
    rule: str = option(default="midpoint", help="quadrature", choices=("midpoint", "right", "gauss_legendre"))
    batch_size: int = option(default=16, help=BATCH_SIZE, at_least=1)

    def setup(self) -> None:
        """Check the baseline."""
        check_baseline(self.baseline)

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        batch, start_image = len(x), starting_images(self.model, x, self.baseline)
        path = x - start_image
        alphas, weights = (t.to(x) for t in quadrature(self.n_steps, self.rule))
        total = torch.zeros_like(x, dtype=torch.float32)
        for start, stop in chunks(self.n_steps, batch, images_per_pass(self.batch_size, x)):
            points = start_image + spread_over(alphas[start:stop], x.ndim) * path
            grad = input_gradient(self.model, points.flatten(0, 1), repeat_target(target, batch, stop - start))
            total += (grad.unflatten(0, (-1, batch)) * spread_over(weights[start:stop], x.ndim)).float().sum(0)
        return self.per_pixel(path * total)


def quadrature(n: int, rule: str) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Return `n` nodes and weights on [0, 1]; the weights sum to one."""
    if rule == "midpoint":
        return (torch.arange(n) + 0.5) / n, torch.full((n,), 1 / n)
    if rule == "right":
        return torch.arange(1, n + 1) / n, torch.full((n,), 1 / n)
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
