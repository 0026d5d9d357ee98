"""Integrated CDAM: the score's rise from empty tokens, shared out among the patches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.attention.cdam import CDAMBase
from seewhy.methods.base import BATCH_SIZE, chunks, gradient, method, option, repeat_target
from seewhy.targets import Target


@method(
    name="integrated_cdam",
    title="Integrated CDAM",
    summary="How much each patch adds to the score on the way from empty tokens in the last block.",
    needs={Capability.LAST_BLOCK, Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 6",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(self.n_steps, self.n_steps)),
)
class IntegratedCDAM(CDAMBase):
    """S_i = Σ_j (T − T̃)_ij · 1/n Σ_{k=1..n} ∂f/∂T_ij (T̃ + k/n (T − T̃)), T̃ = `start_value` (0 in the paper).

    Completeness: over all tokens, prefix tokens included, the sum tends to f(T) − f(T̃), the residual stream held
    fixed. Right end-points, as in the paper.
    """

    n_steps: int = option(default=50, help="points on the path", at_least=1, repeats=True)
    start_value: float = option(default=0.0, help="value of every token at the start of the path")
    batch_size: int = option(default=32, help=BATCH_SIZE, at_least=1)

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        return self.model.tokens_to_map(self.tokens(x, target), x.shape[-2:])

    def tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Return the shares of all tokens, prefix tokens included."""
        tail = self.model.tail(x, self.layer_)
        batch, path = len(x), tail.value - self.start_value
        total = torch.zeros_like(path, dtype=torch.float32)
        for start, stop in chunks(self.n_steps, batch, self.batch_size):
            alphas = torch.arange(start + 1, stop + 1, device=x.device, dtype=path.dtype) / self.n_steps
            points = (self.start_value + alphas.view(-1, 1, 1, 1) * path).flatten(0, 1)
            with torch.enable_grad():
                points.requires_grad_()
                score = repeat_target(target, batch, stop - start).score(tail(points))
            total += gradient(score, points).float().unflatten(0, (-1, batch)).sum(0)
        return (path.float() * total / self.n_steps).sum(-1)
