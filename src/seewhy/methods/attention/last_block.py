"""Base of Smooth and Integrated CDAM: many runs of the last block, on tokens that they vary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.methods.attention.cdam import CDAMBase
from seewhy.methods.base import BATCH_SIZE, gradient, option
from seewhy.models.instrument.shared_images import ImageIndex
from seewhy.models.partial import ClassTokenTail, ModelTail
from seewhy.models.structure import Layer
from seewhy.targets import Target


@dataclass(kw_only=True, eq=False)
class VariedTokens(CDAMBase):
    """A method that varies the tokens that enter the last block, or those that come out of its first norm."""

    at: str = option(
        default="block_input",
        help="which tokens are varied: the last block's input (the paper), or its norm1's output, residual held fixed",
        choices=("block_input", "norm1"),
    )
    batch_size: int = option(default=32, help=BATCH_SIZE, at_least=1)

    @property
    def shares_forwards(self) -> bool:
        """Whether several targets of one image cost the forwards of one: where the class token goes alone."""
        return not self.whole_block

    @property
    def cut_layer(self) -> Layer | None:
        """The last layer that runs once: the block before the last (None if there is no other), or norm1."""
        if self.at == "norm1":
            return self.layer_
        blocks = self.model.structure.blocks
        return self.model.layer(blocks[-2].name) if len(blocks) > 1 else None

    def row_of(self, x: Tensor) -> tuple[ClassTokenTail, ImageIndex | None]:
        """Run what is below the varied tokens once, and return what runs the class token from there on.

        Raises:
            NoClassRow: The model cannot be run so.
        """
        return self.model.class_token_tail(x, at_input=self.at == "block_input"), self.model.image_index

    def varied(self, x: Tensor) -> ModelTail:
        """Run what is below the varied tokens once; `.value` are these tokens."""
        if self.at == "norm1":
            return self.model.tail(x, self.layer_)
        return self.model.tail(x, Layer(self.model.structure.blocks[-1].name, "tokens"), at_input=True)

    def at_norm1(
        self, tail: ModelTail, tokens: Float[Tensor, "rows tokens dim"], target: Target
    ) -> tuple[Float[Tensor, "rows tokens dim"], Float[Tensor, "rows tokens dim"]]:
        """Return T' and ∂f/∂T' for other tokens, T' the output of norm1: the gradient of the attention branch only."""
        if self.at == "norm1":
            with torch.enable_grad():
                leaf = tokens.detach().requires_grad_()
                return leaf.detach(), gradient(target.score(tail(leaf)), leaf)
        with self.model.leaf_at(self.layer_) as leaves:
            score = target.score(tail(tokens))
        return leaves[0].detach(), gradient(score, leaves[0])
