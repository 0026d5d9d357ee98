"""CDAM: attention scaled by what it is worth to the score."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.attention.class_row import GivenTokens, row_shares
from seewhy.methods.base import Method, activation_and_gradient, in_rounds, method, rows_of
from seewhy.methods.guards import on_trial
from seewhy.models.instrument.class_row import NoClassRow
from seewhy.models.structure import Layer
from seewhy.targets import Target


class CDAMBase(Method):
    """Base of the CDAM family: its tensor T is the output of the norm before the last attention.

    Where the head reads the class token only, only that token goes through the last block (`class_row`); elsewhere, and
    where queries, keys or values are not affine in the tokens (QK-norm, rotary positions), the whole block runs.

    Attributes:
        whole_block: Why the whole block runs; empty where it does not. Before the first map it is what the structure
            tells.
    """

    shares_gradients = True

    def setup(self) -> None:
        """Settle the layer whose output is T."""
        structure = self.model.structure
        self.layer_ = Layer(structure.blocks[-1].norm1, "tokens")
        reads_more = structure.reads_patches or not structure.class_token
        self.whole_block = "the head reads more than the class token" if reads_more else ""

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        return self.model.tokens_to_map(self.tokens(x, target), x.shape[-2:])

    def tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Return the shares of all tokens, prefix tokens included."""
        if not self.whole_block:
            try:
                with on_trial(target) as trial:
                    return self.row_tokens(x, trial)
            except NoClassRow as reason:
                self.whole_block = str(reason)
        return self.block_tokens(x, target)

    def row_tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Compute them from the class token's row.

        Raises:
            NoClassRow: The model cannot be run so.
        """
        raise NotImplementedError

    def block_tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Compute them by running the whole block."""
        raise NotImplementedError

    def passes(self, n: int) -> Cost:
        """Return the cost of n versions of the tokens."""
        if self.whole_block:
            return Cost.split(below=Passes(1), above=Passes(n, n))
        return Cost.class_token(below=Passes(1), row=Passes(n, n))


@method(
    name="cdam",
    title="CDAM",
    summary="Which patches the last attention uses for the class (positive) or against it (negative).",
    needs={Capability.LAST_BLOCK, Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, eq. 2",
    cost=lambda self: self.passes(1),
)
class CDAM(CDAMBase):
    """S_i = Σ_j T_ij ∂f/∂T_ij, T (B, tokens, dim) the output of the last block's norm1, affine included.

    The gradient is that of T alone, the residual stream held fixed: it sees the attention branch only. Patch
    tokens are kept; class and register tokens are dropped, not shared out. Signed, not clipped. The trunk runs
    without gradients.
    """

    scores_once = True

    def row_tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Compute the shares from the class token's row."""
        tail = self.model.class_token_tail(x)
        tokens, index = GivenTokens(tail.value[None]), self.model.image_index
        shares = row_shares(tail, tokens.first, tokens, in_rounds(target, index), index.rounds if index else 1)
        return rows_of(shares[0], index)

    def block_tokens(self, x: Tensor, target: Target) -> Float[Tensor, "batch tokens"]:
        """Compute the shares by running the whole block."""
        tokens, grad = activation_and_gradient(self.model, x, self.layer_, target)
        return (tokens * grad).float().sum(-1)
