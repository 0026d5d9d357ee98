"""SmoothGrad: the gradient, averaged over noisy copies of the image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.core.maps import spread_over
from seewhy.methods.base import (
    BATCH_SIZE,
    chunks,
    images_per_pass,
    input_gradient,
    make_generator,
    method,
    noise,
    option,
    repeat_target,
)
from seewhy.methods.gradient.channels import PixelMagnitudes
from seewhy.targets import Target


@method(
    name="smooth_grad",
    title="SmoothGrad",
    summary="Saliency with its grain averaged away: which pixels the score reacts to on noisy copies of the image.",
    needs={Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    volumes=True,
    stochastic=True,
    citation="Smilkov et al., SmoothGrad (2017), section 2.2",
    cost=lambda self: Cost.whole(self.n_samples, self.n_samples),
)
class SmoothGrad(PixelMagnitudes):
    """M_ij = max over channels of |1/n Σ_k ∂f/∂x_cij (x + ε_k)|, ε_k ~ N(0, σ²).

    The signed gradients are averaged, as in the paper; only then the magnitude is taken. (Captum's noise tunnel
    over `Saliency(abs=True)` averages magnitudes, which grows with the noise instead of canceling it.)
    The paper draws magnitudes and leaves the channels open; the runs of the CDAM paper took the mean over channels with
    its sign, which is another map: `channels="mean", signed=True`. n = 50 is
    both papers', σ = 0.15 the CDAM paper's, within the 10 to 20 % of the other.
    σ is a fraction of each image's own range, max − min. The noise comes from `seed` and is the same for every
    image, so an image's map does not depend on the batch that it is in.
    """

    n_samples: int = option(default=50, help="number of noisy copies", at_least=1, repeats=True)
    sigma: float = option(
        default=0.15, help="standard deviation of the noise, as a fraction of the image's range", at_least=0
    )
    seed: int = option(default=0, help="seed of the noise")
    batch_size: int = option(default=16, help=BATCH_SIZE, at_least=1)

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        batch, generator = len(x), make_generator(self.seed, x.device)
        flat = x.flatten(1)
        sigma = spread_over(self.sigma * (flat.amax(1) - flat.amin(1)), x.ndim - 1)
        total = torch.zeros_like(x, dtype=torch.float32)
        for start, stop in chunks(self.n_samples, batch, images_per_pass(self.batch_size, x)):
            draws = noise(x.shape[1:], start, stop, generator, x)
            noisy = x + sigma * draws[:, None]
            grad = input_gradient(self.model, noisy.flatten(0, 1), repeat_target(target, batch, stop - start))
            total += grad.float().unflatten(0, (-1, batch)).sum(0)
        return self.per_pixel(total / self.n_samples)
