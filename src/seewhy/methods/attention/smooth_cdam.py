"""Smooth CDAM: CDAM averaged over noisy tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.attention.cdam import CDAMBase
from seewhy.methods.base import BATCH_SIZE, chunks, gradient, make_generator, method, noise, option, repeat_target
from seewhy.targets import Target


@method(
    name="smooth_cdam",
    title="Smooth CDAM",
    summary="CDAM averaged over noisy copies of the last block's tokens.",
    needs={Capability.LAST_BLOCK, Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    stochastic=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 5",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(self.n_samples, self.n_samples)),
)
class SmoothCDAM(CDAMBase):
    """S_i = 1/n Σ_k Σ_j T'_ij ∂f/∂T'_ij (T'), T' = T + N(0, σ²) on all tokens, prefix tokens too.

    The noisy T' multiplies the gradient. The paper does not give σ; ours is a fraction of T's own range
    (max − min for each image), or absolute. The noise comes from `seed` and is the same for every image.
    """

    n_samples: int = option(default=50, help="number of noisy copies", at_least=1, repeats=True)
    sigma: float = option(default=0.05, help="standard deviation of the noise", at_least=0)
    sigma_unit: str = option(default="range", help="what sigma is measured in", choices=("range", "absolute"))
    seed: int = option(default=0, help="seed of the noise")
    batch_size: int = option(default=32, help=BATCH_SIZE, at_least=1)

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        tail = self.model.tail(x, self.layer_)
        tokens, batch, generator = tail.value, len(x), make_generator(self.seed, x.device)
        sigma = self._sigma(tokens)
        total = torch.zeros(tokens.shape[:2], device=x.device)
        for start, stop in chunks(self.n_samples, batch, self.batch_size):
            draws = noise(tokens.shape[1:], start, stop, generator, tokens)
            noisy = (tokens + sigma * draws[:, None]).flatten(0, 1)
            with torch.enable_grad():
                noisy.requires_grad_()
                score = repeat_target(target, batch, stop - start).score(tail(noisy))
            shares = (noisy.detach() * gradient(score, noisy)).float().sum(-1)
            total += shares.unflatten(0, (-1, batch)).sum(0)
        return self.model.tokens_to_map(total / self.n_samples, x.shape[-2:])

    def _sigma(self, tokens: Tensor) -> Tensor | float:
        if self.sigma_unit == "absolute":
            return self.sigma
        return self.sigma * (tokens.amax((1, 2)) - tokens.amin((1, 2))).view(1, -1, 1, 1)
