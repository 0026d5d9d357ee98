"""Integrated CDAM: the score's rise from empty tokens, shared out among the patches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.errors import OptionError
from seewhy.methods.attention.class_row import GivenTokens, ScaledTokens, Tokens, row_shares
from seewhy.methods.attention.last_block import VariedTokens
from seewhy.methods.base import chunks, images_per_pass, in_rounds, method, option, repeat_target, rows_of
from seewhy.models.instrument.hooks import is_plain_layer_norm
from seewhy.models.partial import ClassTokenTail
from seewhy.targets import Target


@method(
    name="integrated_cdam",
    title="Integrated CDAM",
    summary="How much each patch adds to the score on the way from empty tokens in the last block.",
    needs={Capability.LAST_BLOCK, Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, section 3.3 and eq. 6",
    cost=lambda self: self.passes(self.points),
)
class IntegratedCDAM(VariedTokens):
    """S_i = 1/(n−1) Σ_{k=1..n−1} Σ_j (T_k − z̃)_ij ∂f/∂T_k,ij, T_k = norm1(z̃ + k/n (z − z̃)), z̃ = `start_value` (0).

    z is the input of the last block, so the residual stream grows along the path as well; the end, k = n, is left out:
    both as in the authors' code. A norm takes a scale away, so with z̃ = 0 each T_k is T but for the norm's ε.

    `at="norm1"` is eq. 6 on T alone, the residual stream held fixed:
    S_i = Σ_j (T − T̃)_ij · 1/n Σ_{k=1..n} ∂f/∂T_ij (T̃ + k/n (T − T̃)), T̃ = `start_value`. It is complete: over all
    tokens, prefix tokens included, the sum tends to f(T) − f(T̃). The other is not, and is not meant to be.
    """

    n_steps: int = option(default=50, help="parts of the path", at_least=1, repeats=True)
    start_value: float = option(default=0.0, help="value of every token at the start of the path")

    def setup(self) -> None:
        """Check that the path has a point."""
        super().setup()
        if not self.points:
            raise OptionError("n_steps=1 leaves no point inside the path; use 2 or more, or at='norm1'")

    @property
    def points(self) -> int:
        """How many points of the path are run."""
        return self.n_steps - (self.at == "block_input")

    def row_tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Compute the shares from the class token's row."""
        tail, index = self.row_of(x)
        ends, rounds = tail.value, index.rounds if index else 1
        batch, targets = len(ends), in_rounds(target, index)
        origin = torch.full_like(ends[0, 0], self.start_value)
        total = torch.zeros(rounds, *ends.shape[:2], device=x.device)
        for start, stop in chunks(self.points, batch, images_per_pass(self.batch_size, x)):
            alphas = self._alphas(start, stop, ends).view(-1, 1, 1)
            path = ScaledTokens(ends, alphas, origin)
            if self.at == "norm1":
                tokens: Tokens = path
                length: Tensor | float = alphas[..., None]  # the step is T − T̃, that of `row_shares` T_k − T̃
            else:
                tokens, length = self._normed(tail, path), 1.0
            chunk = repeat_target(targets, rounds * batch, stop - start)
            total += (row_shares(tail, path.first, tokens, chunk, rounds, self.start_value) / length).sum(0)
        return rows_of(total / self.points, index)

    def _normed(self, tail: ClassTokenTail, path: ScaledTokens) -> Tokens:
        """Return norm1 of the points of the path.

        A layer norm takes start and scale away but for its ε: LN(z̃ + α (z − z̃)) = β + r (LN(z) − β) with
        r = α √((σ² + ε) / (α² σ² + ε)), so that no point is ever made.
        """
        norm = tail.norm
        if not is_plain_layer_norm(norm):
            points = path.origin + path.shares[..., None] * (path.tokens - path.origin)
            return GivenTokens(tail.normed(points.flatten(0, 1)).unflatten(0, (-1, len(path.tokens))))
        variance = path.tokens.var(-1, correction=0)
        shares = path.shares * ((variance + norm.eps) / (path.shares.square() * variance + norm.eps)).sqrt()
        bias = torch.zeros_like(path.origin) if norm.bias is None else norm.bias.detach()
        return ScaledTokens(tail.normed(path.tokens), shares, bias)

    def block_tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Compute the shares by running the whole block."""
        tail = self.varied(x)
        batch, path = len(x), tail.value - self.start_value
        total = torch.zeros(path.shape[:2], device=x.device)
        for start, stop in chunks(self.points, batch, images_per_pass(self.batch_size, x)):
            alphas = self._alphas(start, stop, path)
            tokens = (self.start_value + alphas.view(-1, 1, 1, 1) * path).flatten(0, 1)
            values, grad = self.at_norm1(tail, tokens, repeat_target(target, batch, stop - start))
            grad = grad.float().unflatten(0, (-1, batch))
            way = path if self.at == "norm1" else values.unflatten(0, (-1, batch)) - self.start_value
            total += (way.float() * grad).sum((0, -1))
        return total / self.points

    def _alphas(self, start: int, stop: int, like: Tensor) -> Float[Tensor, "n"]:
        return torch.arange(start + 1, stop + 1, device=like.device, dtype=like.dtype) / self.n_steps
