"""Relevance propagation: attention weighted by its gradient, followed through all blocks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.attention.base import AttentionGradients
from seewhy.methods.base import method
from seewhy.targets import Target


@method(
    name="relevance_propagation",
    title="Relevance propagation",
    summary="Where attention that speaks for the class leads when it is followed through all blocks.",
    needs={Capability.ATTENTION, Capability.CLASS_TOKEN, Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    citation="Chefer et al., Generic Attention-Model Explainability (ICCV 2021), eq. 5-6",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(1, 1)),
)
class RelevancePropagation(AttentionGradients):
    """R ← R + Ā R for each block in order, R = I at first, Ā = mean_heads max(0, ∇A ⊙ A); the map is R[CLS, patches].

    ∇A = ∂f/∂A, A the softmaxed matrix. Nothing is normalized. One forward and one backward down to the attention of
    the first block; both keep all matrices, blocks · heads · N² numbers for each image, besides the activations.
    """

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        attended = self.attend(x, target)
        pairs = zip(attended.values, attended.gradients(), strict=True)
        weighted = [matrix.float() * gradient.float() for matrix, gradient in pairs]
        return self.model.tokens_to_map(propagate_cls(weighted), x.shape[-2:])


def propagate_cls(weighted: list[Float[Tensor, "batch heads tokens tokens"]]) -> Float[Tensor, "batch tokens"]:
    """Return the class token's row of Π (I + mean_heads max(0, ·)), later blocks in front.

    Args:
        weighted: The weighted matrices of the blocks, in order.
    """
    row = torch.zeros_like(weighted[0][:, 0, 0])
    row[:, 0] = 1
    for matrix in reversed(weighted):  # row times matrix, from the last block to the first: no N × N product
        row = row + (row[:, None] @ matrix.clamp(min=0).mean(1))[:, 0]
    return row
