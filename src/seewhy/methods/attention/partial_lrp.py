"""Partial LRP: how much each patch matters to the last attention's heads."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.attention.base import ATTENTION_RULES, RULES_HELP, AttentionGradients, attention_rules
from seewhy.methods.base import method, option
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

    Relevance starts with 1 in total at the output and ends there: nothing below has gradients. The default is the code
    that Chefer et al. compare with, which the CDAM paper runs under this name; `chefer` are their own rules, and with
    `zplus` or `epsilon` in linear layers the rest follows AttnLRP. They are not alike: which patches come first can be
    turned round.
    """

    rule: str = option(default="chefer_original", help=RULES_HELP, choices=ATTENTION_RULES)
    epsilon: float = option(
        default=1e-6, help="added to denominators by zplus and epsilon, with their sign", at_least=0
    )

    @property
    def first_block(self) -> int:
        """The last block."""
        return -1

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        with torch.autocast(x.device.type, enabled=False):
            rules = attention_rules(self.rule, self.epsilon)
            (relevance,) = self.relevance(self.attend(x, target, rules), rules)
        return self.model.tokens_to_map(relevance.clamp(min=0).mean(1)[:, 0], x.shape[-2:])
