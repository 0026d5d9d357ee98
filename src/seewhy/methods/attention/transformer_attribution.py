"""Transformer attribution: the relevance of attention matrices, weighted by their gradients, through all blocks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.attention.base import ATTENTION_RULES, RULES_HELP, AttentionGradients, attention_rules
from seewhy.methods.attention.relevance_propagation import propagate_cls
from seewhy.methods.base import method, option
from seewhy.targets import Target


@method(
    name="transformer_attribution",
    title="Transformer attribution",
    summary="Where attention that is relevant and speaks for the class leads when it is followed through the blocks.",
    needs={Capability.ATTENTION, Capability.CLASS_TOKEN, Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    citation="Chefer et al., Transformer Interpretability Beyond Attention Visualization (CVPR 2021), eq. 13-14",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(1, 2)),
)
class TransformerAttribution(AttentionGradients):
    """C[CLS, patches] of C = Π (I + Ā_b), Ā_b = mean_heads max(0, ∇A_b ⊙ R_b), later blocks in front, not normalized.

    ∇A is the true gradient of the score, R the LRP relevance of the softmaxed matrix, which starts with 1 in total
    at the output. Linear layers follow z⁺ (α = 1, β = 0) as in the paper, or ε, and all else follows AttnLRP. The
    authors' code has other rules for softmax, norms and residual sums: they are `rule="chefer"`, with `start_block=1`
    in the published runs. They divide by sums that may be next to zero, so that the rounding of float32 shows in the
    map (1e-3 of its maximum on a small network); hence they are not the default. One forward and two backwards.
    """

    start_block: int = option(default=0, help="the first block that counts (1 in the published runs)", at_least=0)
    rule: str = option(default="zplus", help=RULES_HELP, choices=ATTENTION_RULES)
    epsilon: float = option(
        default=1e-6, help="added to denominators by zplus and epsilon, with their sign", at_least=0
    )

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        rules = attention_rules(self.rule, self.epsilon)
        with torch.autocast(x.device.type, enabled=False):
            attended = self.attend(x, target, rules)
            rules.plain = True
            gradients = attended.gradients(keep=True)
            rules.plain = False
            relevance = self.relevance(attended, rules)
        weighted = [gradient.float() * r for gradient, r in zip(gradients, relevance, strict=True)]
        return self.model.tokens_to_map(propagate_cls(weighted), x.shape[-2:])
