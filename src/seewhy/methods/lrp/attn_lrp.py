"""AttnLRP: the score of a transformer shared out among the pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import Method, method, option
from seewhy.methods.lrp.modes import output_gradients, pixel_relevance
from seewhy.methods.lrp.token_rules import TokenRules
from seewhy.models.adapter import VisionModel
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
    - linear layers: ε rule; residual sums: in proportion.

    Relevance starts as o ⊙ ∂score/∂o at the output o: a class with its logit. What biases, positional embeddings
    and prefix tokens are worth stays with them, so Σ R over the pixels is not the score. One forward (attention
    unfused) and one backward, which keeps the activations of all blocks.
    """

    scores_once = True

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

        def run(pixels: Tensor) -> Output:
            with self.model.attention(lambda *_: None, pixels, differentiable=True):
                return self.model.run(pixels)

        rules = TokenRules(epsilon=self.epsilon)
        per_value = pixel_relevance(x, rules, run, lambda output: output_gradients(output, target))
        return (x * per_value).float().sum(1)
