"""What methods share that differentiate with respect to attention matrices."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.errors import ModelError, OptionError
from seewhy.methods.base import Method
from seewhy.methods.lrp.modes import output_gradients
from seewhy.methods.lrp.token_rules import TokenRules
from seewhy.models.instrument.hooks import backward
from seewhy.models.structure import Layer
from seewhy.targets import Target


@dataclass
class AttentionForward:
    """One forward whose attention matrices can be differentiated.

    Attributes:
        matrices: the softmaxed matrices of the blocks, in order, (B, heads, N, N) each.
        starts: (output, ∂ score / ∂ output) pairs.
    """

    matrices: list[Tensor]
    starts: list[tuple[Tensor, Tensor]]

    def gradients(self, keep: bool = False) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """What the backward brings to each matrix; with `keep`, another backward can follow.

        Raises:
            ModelError: nothing comes, because the target is constant.
        """
        starts = [(value, upper) for value, upper in self.starts if value.requires_grad]
        if not starts:
            raise ModelError(
                "the score has no gradient: the target is constant, or the model's forward switches "
                "gradients off; use another target, or attention_map"
            )
        values, uppers = zip(*starts, strict=True)
        found = backward(values, self.matrices, uppers, keep)
        return [torch.zeros_like(m) if g is None else g for m, g in zip(self.matrices, found, strict=True)]

    @property
    def total(self) -> Float[Tensor, "batch"]:
        """The relevance that starts at the output: o · ∂score/∂o, for a class its logit."""
        return sum((value.detach() * upper).flatten(1).sum(1) for value, upper in self.starts)


class AttentionGradients(Method):
    """A method that differentiates the attention matrices from block `first_block` on; nothing below has gradients."""

    scores_once = True

    @property
    def first_block(self) -> int:
        """The first block that counts."""
        return getattr(self, "start_layer", 0)

    def setup(self) -> None:
        blocks = self.model.structure.blocks
        if self.first_block >= len(blocks):
            raise OptionError(f"start_layer={self.first_block} leaves no block; this model has {len(blocks)}")
        self.layer_ = Layer(blocks[self.first_block].norm1, "tokens")

    def attend(self, x: Tensor, target: Target, rules: TokenRules | None = None) -> AttentionForward:
        """One forward; with `rules`, its backward is theirs."""
        matrices: list[Tensor] = []
        blocks = range(self.first_block % len(self.model.structure.blocks), len(self.model.structure.blocks))
        keep = self.model.attention(lambda _, matrix: matrices.append(matrix), x, blocks=blocks, differentiable=True)
        with rules or nullcontext(), self.model.leaf_at(self.layer_), keep:
            output = self.model.run(x)
        return AttentionForward(matrices, output_gradients(output, target))

    def relevance(self, attended: AttentionForward) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """R_A = A ⊙ what arrives by the rules, for relevance that starts with 1 in total; zero where the score is."""
        total = attended.total.view(-1, 1, 1, 1)
        share = torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))
        return [(m.detach() * g * share).float() for m, g in zip(attended.matrices, attended.gradients(), strict=True)]
