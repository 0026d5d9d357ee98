"""Base of the methods that differentiate with respect to attention matrices."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.errors import ModelError, OptionError
from seewhy.methods.base import Method
from seewhy.methods.lrp.chefer_rules import CheferRules
from seewhy.methods.lrp.modes import output_gradients
from seewhy.methods.lrp.token_rules import LINEAR_RULES, TokenRules
from seewhy.models.instrument.hooks import backward
from seewhy.models.instrument.shared_images import ImageIndex
from seewhy.models.structure import Layer
from seewhy.targets import Target


@dataclass
class AttentionForward:
    """One forward whose attention matrices can be differentiated.

    Attributes:
        matrices: The softmaxed matrices of the blocks, in order, (B, heads, N, N) each.
        starts: Pairs of an output and ∂ score / ∂ output.
        index: Which image each row of the outputs is of; None: each its own.
    """

    matrices: list[Tensor]
    starts: list[tuple[Tensor, Tensor]]
    index: ImageIndex | None = None

    @property
    def values(self) -> list[Float[Tensor, "rows heads tokens tokens"]]:
        """The matrices without their graph, one for each row."""
        matrices = [matrix.detach() for matrix in self.matrices]
        return matrices if self.index is None else [self.index.expand(matrix) for matrix in matrices]

    def gradients(self, keep: bool = False) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Return what the backward brings to each matrix.

        Args:
            keep: Whether another backward follows.

        Raises:
            ModelError: When nothing comes, because the target is constant.
        """
        starts = [(value, upper) for value, upper in self.starts if value.requires_grad]
        if not starts:
            raise ModelError(
                "the score has no gradient: the target is constant, or the model's forward switches "
                "gradients off; use another target, or attention_map"
            )
        values, uppers = zip(*starts, strict=True)
        if self.index is None:
            return self._filled(backward(values, self.matrices, uppers, keep))
        rounds = []
        for rows, last in self.index.rows_by_round:
            some = [_only(upper, rows.to(upper.device)) for upper in uppers]
            rounds.append(self._filled(backward(values, self.matrices, some, keep or not last)))
        return [self.index.from_rounds(torch.cat(each)) for each in zip(*rounds, strict=True)]

    def _filled(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        return [torch.zeros_like(m) if g is None else g for m, g in zip(self.matrices, gradients, strict=True)]

    @property
    def total(self) -> Float[Tensor, "batch"]:
        """The relevance that starts at the output: o · ∂score/∂o, for a class its logit."""
        return torch.stack([(value.detach() * upper).flatten(1).sum(1) for value, upper in self.starts]).sum(0)


def _only(values: Tensor, rows: Tensor) -> Tensor:
    """Return the values with all other rows set to 0."""
    return torch.zeros_like(values).index_copy(0, rows, values[rows])


ATTENTION_RULES = ("chefer", "chefer_original", *LINEAR_RULES)
"""Names of the rules by which relevance comes to attention matrices."""

RULES_HELP = (
    "the LRP rules: those of Chefer et al. or of their code for the original LRP, or AttnLRP's with zplus or epsilon "
    "in linear layers"
)


def attention_rules(rule: str, epsilon: float) -> TokenRules | CheferRules:
    """Return new rules of one of the names, for one forward."""
    if rule in LINEAR_RULES:
        return TokenRules(rule, epsilon)
    return CheferRules(original=rule == "chefer_original")


class AttentionGradients(Method):
    """A method that differentiates the attention matrices from block `first_block` on; nothing below has gradients."""

    scores_once = shares_gradients = True

    @property
    def first_block(self) -> int:
        """The first block that counts."""
        return getattr(self, "start_block", 0)

    def setup(self) -> None:
        """Settle the layer above which gradients exist."""
        blocks = self.model.structure.blocks
        if self.first_block >= len(blocks):
            raise OptionError(
                f"start_block={self.first_block} leaves no block of {len(blocks)}; use 0 to {len(blocks) - 1}"
            )
        self.layer_ = Layer(blocks[self.first_block].norm1, "tokens")

    @property
    def _needs_residual(self) -> bool:
        """Whether what is beside the first block's attention takes part: relevance is shared out between the two."""
        return getattr(self, "rule", "").startswith("chefer")

    @property
    def cut_layer(self) -> Layer | None:
        """The last layer without gradients: the first norm, or the block before (None if there is no other)."""
        if not self._needs_residual:
            return self.layer_
        first = self.first_block % len(self.model.structure.blocks)
        return self.model.layer(self.model.structure.blocks[first - 1].name) if first else None

    def attend(self, x: Tensor, target: Target, rules: TokenRules | CheferRules | None = None) -> AttentionForward:
        """Run one forward whose matrices can be differentiated.

        Args:
            x: The batch.
            target: What is explained.
            rules: Replace the gradients of the forward by theirs.
        """
        matrices: list[Tensor] = []
        index = self.model.image_index
        images = x if index is None else index.unique(x)
        blocks = range(self.first_block % len(self.model.structure.blocks), len(self.model.structure.blocks))
        keep = self.model.attention(
            lambda _, matrix: matrices.append(matrix), images, blocks=blocks, differentiable=True
        )
        block = Layer(self.model.structure.blocks[self.first_block].name, "tokens")
        leaf = self.model.leaf_at(block, at_input=True) if self._needs_residual else self.model.leaf_at(self.layer_)
        with rules or nullcontext(), leaf, keep:
            output = self.model.run(x)
        return AttentionForward(matrices, output_gradients(output, target), index)

    def relevance(
        self, attended: AttentionForward, rules: TokenRules | CheferRules
    ) -> list[Float[Tensor, "batch heads tokens tokens"]]:
        """Return R_A of each matrix by the rules of its forward.

        Relevance starts with 1 in total; it is zero where the score is zero.
        """
        total = attended.total
        share = torch.where(total == 0, 0.0, 1 / torch.where(total == 0, 1.0, total))
        if isinstance(rules, CheferRules):  # they hand down relevance, TokenRules relevance for each value
            starts = [(value, value.detach() * upper * share[:, None]) for value, upper in attended.starts]
            return [relevance.float() for relevance in replace(attended, starts=starts).gradients()]
        pairs = zip(attended.values, attended.gradients(), strict=True)
        return [(matrix * gradient * share.view(-1, 1, 1, 1)).float() for matrix, gradient in pairs]
