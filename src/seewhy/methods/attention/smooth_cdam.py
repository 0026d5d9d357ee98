"""Smooth CDAM: CDAM averaged over noisy tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.methods.attention.class_row import GivenTokens, NoisyTokens, Tokens, row_shares
from seewhy.methods.attention.last_block import VariedTokens
from seewhy.methods.base import (
    chunks,
    images_per_pass,
    in_rounds,
    make_generator,
    method,
    noise,
    option,
    repeat_target,
    rows_of,
)
from seewhy.targets import Target


@method(
    name="smooth_cdam",
    title="Smooth CDAM",
    summary="CDAM averaged over noisy copies of the last block's tokens.",
    needs={Capability.LAST_BLOCK, Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    stochastic=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, section 3.3 and eq. 5",
    cost=lambda self: self.passes(self.n_samples),
)
class SmoothCDAM(VariedTokens):
    """S_i = 1/n Σ_k Σ_j T'_ij ∂f/∂T'_ij, T' = norm1(z + ε_k), ε_k ~ N(0, σ²) on all tokens, prefix tokens too.

    z is the input of the last block: its residual stream and its norm1 both see the noise (section 3.3, and the
    authors' code). `at="norm1"` reads eq. 5 on T alone: T' = T + ε_k, the residual stream held fixed. In both the
    noisy T' multiplies the gradient, which is that of the attention branch.

    σ is a fraction of the range, max − min over all tokens of each image, of the tensor that gets the noise (0.05 in
    the authors' code; the paper chooses it on 200 images, see `seewhy.metrics.faithfulness.choose_option`), or
    absolute. The noise comes from `seed` and is the same for every image. The trunk runs once.
    """

    n_samples: int = option(default=50, help="number of noisy copies", at_least=1, repeats=True)
    sigma: float = option(default=0.05, help="standard deviation of the noise", at_least=0)
    sigma_unit: str = option(
        default="range",
        help="what sigma is measured in: the range of the tokens that get the noise, or their own unit",
        choices=("range", "absolute"),
    )
    seed: int = option(default=0, help="seed of the noise")

    def row_tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Compute the shares from the class token's row."""
        tail, index = self.row_of(x)
        tokens, rounds, generator = tail.value, index.rounds if index else 1, make_generator(self.seed, x.device)
        batch, targets, sigma = len(tokens), in_rounds(target, index), self._sigma(tokens)
        total = torch.zeros(rounds, *tokens.shape[:2], device=x.device)
        for start, stop in chunks(self.n_samples, batch, images_per_pass(self.batch_size, x)):
            draws = noise(tokens.shape[1:], start, stop, generator, tokens)
            if self.at == "norm1":
                varied: Tokens = NoisyTokens(tokens, draws, sigma.view(-1))
                at_cut = varied.first
            else:
                noisy = tokens + sigma * draws[:, None]
                at_cut = noisy[:, :, 0].clone()
                varied = GivenTokens(tail.normed(noisy.flatten(0, 1)).unflatten(0, (-1, batch)))
                del noisy, draws  # they are as large as what is kept of them is small
            chunk = repeat_target(targets, rounds * batch, stop - start)
            total += row_shares(tail, at_cut, varied, chunk, rounds).sum(0)
        return rows_of(total / self.n_samples, index)

    def block_tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Compute the shares by running the whole block."""
        tail = self.varied(x)
        tokens, batch, generator = tail.value, len(x), make_generator(self.seed, x.device)
        sigma = self._sigma(tokens)
        total = torch.zeros(tokens.shape[:2], device=x.device)
        for start, stop in chunks(self.n_samples, batch, images_per_pass(self.batch_size, x)):
            draws = noise(tokens.shape[1:], start, stop, generator, tokens)
            noisy = (tokens + sigma * draws[:, None]).flatten(0, 1)
            values, grad = self.at_norm1(tail, noisy, repeat_target(target, batch, stop - start))
            total += (values * grad).float().sum(-1).unflatten(0, (-1, batch)).sum(0)
        return total / self.n_samples

    def _sigma(self, tokens: Tensor) -> Float[Tensor, "1 #batch 1 1"]:
        if self.sigma_unit == "absolute":
            return tokens.new_full((1, 1, 1, 1), self.sigma)
        return self.sigma * (tokens.amax((1, 2)) - tokens.amin((1, 2))).view(1, -1, 1, 1)
