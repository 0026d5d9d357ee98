"""AttnLRP: the score of a transformer shared out among the pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import Method, method, option
from seewhy.methods.lrp.modes import output_gradients, pixel_relevance
from seewhy.methods.lrp.pixel_rules import PixelTokenRules
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import running
from seewhy.targets import Output, Target


@method(
    name="attn_lrp",
    title="AttnLRP",
    summary="The score of a transformer shared out among the pixels, with rules for attention and norms.",
    needs={Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Achtibat et al., AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers (ICML 2024), "
    "propositions 3.1-3.4",
    cost=lambda self: Cost.whole(1, 1),
)
class AttnLRP(Method):
    """R of the pixels, summed over channels, by the rules of the paper.

    - softmax s = softmax(x): R_x = x ⊙ (R_s − s Σ R_s) (Taylor at x; its remainder is lost, it does not conserve);
    - product A V: R_A = A ⊙ (R/O Vᵀ) / 2, R_V = V ⊙ (Aᵀ R/O) / 2, O = A V (half to each), and so for q kᵀ;
    - layer norm: identity for the division by σ, ε rule for centering and affine part (β keeps its share);
    - GELU and other activations: R_x = R_f; a factor such as σ(x) takes nothing;
    - linear layers: γ rule, as the authors use it for ViTs, or ε rule; residual sums: in proportion.

    Their recipe for ViTs (examples/vit_torch.py, models/openclip.py of the package lxt) is the default: γ = 0.25 in
    convolutions and 0.05 in linear layers, where attention has the ε rule and its matrices pass nothing to queries and
    keys (`attention="constant"`, CP-LRP: the values get all). γ is to be tuned for a model, they say:
    on 30 scenes of `scenes_vit` the mean AUC of the object is 0.56 by the propositions alone, 0.63 by this recipe, 0.68
    with γ in attention, too (`gamma_attention=0.05`; zennit does that where a model writes attention with `nn.Linear`)
    and 0.86 with γ = 100, 0.1 and 0.1.
    `rule="epsilon", attention="shared"` are the propositions alone, as they are used for language models.

    Relevance starts as o ⊙ ∂score/∂o at the output o: a class with its logit. What biases, positional embeddings
    and prefix tokens are worth stays with them, so Σ R over the pixels is not the score. One forward (attention
    unfused) and one backward, which keeps the activations of all blocks.
    """

    scores_once = True

    rule: str = option(default="gamma", help="the rule of layers with weights", choices=("gamma", "epsilon"))
    gamma_conv: float = option(
        default=0.25, help="γ of convolutions: how much more parts of the own sign count", at_least=0
    )
    gamma_linear: float = option(default=0.05, help="γ of linear layers outside of attention", at_least=0)
    gamma_attention: float = option(
        default=0.0, help="γ of linear layers inside attention; 0 is the ε rule", at_least=0
    )
    attention: str = option(
        default="constant",
        help="attention matrices as constants (CP-LRP), or with their share (propositions 3.1 and 3.3)",
        choices=("constant", "shared"),
    )
    epsilon: float = option(
        default=1e-6, help="added to the denominators of linear layers, with their sign", at_least=0
    )

    @classmethod
    def why_incompatible(cls, model: VisionModel) -> str:
        """Return why the rules do not fit the model; empty if they do."""
        missing = model.missing_capabilities(cls.card.needs | {Capability.ATTENTION})
        return f"it needs {' and '.join(missing)}" if missing else ""

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        rules = PixelTokenRules(
            linear=self.rule,
            epsilon=self.epsilon,
            gammas=(self.gamma_conv, self.gamma_linear, self.gamma_attention),
            constant_attention=self.attention == "constant",
        )
        attentions = [self.model.submodule(block.attention) for block in self.model.structure.blocks]
        attentions += [m for m in self.model.module.modules() if isinstance(m, nn.MultiheadAttention)]

        def mark(inside: bool) -> None:
            rules.in_attention = inside

        def run(pixels: Tensor) -> Output:
            with self.model.attention(lambda *_: None, pixels, differentiable=True), running(attentions, mark):
                return self.model.run(pixels)

        return pixel_relevance(x, rules, run, lambda output: output_gradients(output, target)).float().sum(1)
