"""Partial LRP: how much each patch matters to the last attention's heads."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.attention.base import AttentionGradients
from seewhy.methods.base import method, option
from seewhy.methods.lrp.token_rules import LINEAR_RULES, TokenRules
from seewhy.targets import Target


@method(
    name="partial_lrp",
    title="Partial LRP",
    summary="How relevant the last block's attention to each patch is for the class.",
    needs={Capability.ATTENTION, Capability.CLASS_TOKEN, Capability.LAST_BLOCK, Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    citation="Voita et al., Analyzing Multi-Head Self-Attention (ACL 2019), section 4; as a map: Chefer et al., "
    "Transformer Interpretability Beyond Attention Visualization (CVPR 2021)",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(1, 1)),
)
class PartialLRP(AttentionGradients):
    """M = mean_heads max(0, R_A)[CLS, patches], R_A the LRP relevance of the last block's softmaxed attention matrix.

    Relevance starts with 1 in total at the output and ends there: nothing below has gradients. Rules as in
    `TransformerAttribution`.
    """

    rule: str = option(default="zplus", help="the LRP rule of linear layers", choices=LINEAR_RULES)
    epsilon: float = option(default=1e-6, help="added to denominators, with their sign", at_least=0)

    @property
    def first_block(self) -> int:
        """The last block."""
        return -1

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        with torch.autocast(x.device.type, enabled=False):
            (relevance,) = self.relevance(self.attend(x, target, TokenRules(self.rule, self.epsilon)))
        return self.model.tokens_to_map(relevance.clamp(min=0).mean(1)[:, 0], x.shape[-2:])
