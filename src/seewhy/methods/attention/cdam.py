"""CDAM: attention scaled by what it is worth to the score."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.base import Method, activation_and_gradient, method
from seewhy.models.structure import Layer
from seewhy.targets import Target


class CDAMBase(Method):
    """Base of the CDAM family: its tensor T is the output of the norm before the last attention."""

    def setup(self) -> None:
        """Settle the layer whose output is T."""
        self.layer_ = Layer(self.model.structure.blocks[-1].norm1, "tokens")


@method(
    name="cdam",
    title="CDAM",
    summary="Which patches the last attention uses for the class (positive) or against it (negative).",
    needs={Capability.LAST_BLOCK, Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 2",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(1, 1)),
)
class CDAM(CDAMBase):
    """S_i = Σ_j T_ij ∂f/∂T_ij, T (B, tokens, dim) the output of the last block's norm1, affine included.

    The gradient is that of T alone, the residual stream held fixed: it sees the attention branch only. Patch
    tokens are kept; class and register tokens are dropped, not shared out. Signed, not clipped. The trunk runs
    without gradients.
    """

    scores_once = True

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        tokens, grad = activation_and_gradient(self.model, x, self.layer_, target)
        return self.model.tokens_to_map((tokens * grad).float().sum(-1), x.shape[-2:])
