"""Integrated CDAM: the score's rise from empty tokens, shared out among the patches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.errors import OptionError
from seewhy.methods.attention.last_block import VariedTokens
from seewhy.methods.base import chunks, method, option, repeat_target
from seewhy.targets import Target


@method(
    name="integrated_cdam",
    title="Integrated CDAM",
    summary="How much each patch adds to the score on the way from empty tokens in the last block.",
    needs={Capability.LAST_BLOCK, Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, section 3.3 and eq. 6",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(self.points, self.points)),
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

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        return self.model.tokens_to_map(self.tokens(x, target), x.shape[-2:])

    def tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Return the shares of all tokens, prefix tokens included."""
        tail = self.varied(x)
        batch, path = len(x), tail.value - self.start_value
        total = torch.zeros(path.shape[:2], device=x.device)
        for start, stop in chunks(self.points, batch, self.batch_size):
            alphas = torch.arange(start + 1, stop + 1, device=x.device, dtype=path.dtype) / self.n_steps
            tokens = (self.start_value + alphas.view(-1, 1, 1, 1) * path).flatten(0, 1)
            values, grad = self.at_norm1(tail, tokens, repeat_target(target, batch, stop - start))
            grad = grad.float().unflatten(0, (-1, batch))
            way = path if self.at == "norm1" else values.unflatten(0, (-1, batch)) - self.start_value
            total += (way.float() * grad).sum((0, -1))
        return total / self.points
