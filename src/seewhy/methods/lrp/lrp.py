"""LRP: the score shared out among the pixels, layer after layer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import Method, method, option
from seewhy.methods.lrp.layer_rules import COMPOSITES, LayerRules, attention_inside
from seewhy.methods.lrp.modes import Starts, output_gradients, pixel_relevance
from seewhy.methods.lrp.sums import input_bounds
from seewhy.models.adapter import VisionModel
from seewhy.targets import Output, Target

COMPOSITE = "rules by layer (first-convolutions-linear), or one rule for all layers"


class LayerwiseRelevance(Method):
    """Base of the LRP methods for convolutional networks: their rules."""

    composite: str
    epsilon: float
    gamma: float

    @classmethod
    def why_incompatible(cls, model: VisionModel) -> str:
        """Return why the rules do not fit the model; empty if they do."""
        return super().why_incompatible(model) or attention_inside(model)

    def rules(self, x: Tensor) -> LayerRules:
        """Return new rules, for one forward of a batch."""
        box = input_bounds(self.model, x) if "box" in COMPOSITES[self.composite] else None
        return LayerRules(self.composite, self.epsilon, self.gamma, box)


@method(
    name="lrp",
    title="LRP",
    summary="The score shared out among the pixels layer after layer: for it (positive) or against it (negative).",
    needs={Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Bach et al., On Pixel-Wise Explanations … by Layer-Wise Relevance Propagation (2015); "
    "Montavon et al., Layer-Wise Relevance Propagation: An Overview (2019), section 10.2",
    cost=lambda self: Cost.whole(1, 1),
)
class LRP(LayerwiseRelevance):
    """R_i = Σ_j ρ(x_i, w_ij) / Σ_i' ρ(x_i', w_i'j) · R_j from layer to layer; the map is Σ_channels R at the pixels.

    ρ is the rule: ε: x w, with ε in the denominator; γ: x (w + γ w⁺); z⁺ = α1β0: (x w)⁺; α2β1: twice the
    positive minus once the negative shares; flat: 1; z^B (`box`): x w − low w⁺ − high w⁻, low and high being black
    and white as they arrive at the first layer. A constant that is added or multiplied (a normalization inside the
    model) takes nothing. Biases stand in the denominators, so they keep a share; without them
    Σ R is the score (up to ε). A composite gives one rule to the first layer, one to convolutions, one to linear
    layers. A batch norm is merged into the layer before it. A residual sum and an average share out in proportion.
    Every activation passes relevance on as it is; the rules were made for ReLU, and with SiLU or GELU, whose
    output can be negative, they still conserve but are less well founded. Gates (squeeze and excitation) take
    nothing. The relevance at the output o is o ⊙ ∂score/∂o: a class starts with its logit, the sum of an embedding
    with the embedding.

    ε is absolute: a network whose activations are not far above it keeps relevance for itself.

    Raises:
        ModelError: When the model computes something that no rule fits (a softmax inside, a matrix product).
    """

    scores_once = True

    composite: str = option(default="epsilon_plus_flat", help=COMPOSITE, choices=tuple(COMPOSITES))
    epsilon: float = option(default=1e-6, help="added to denominators, with their sign", at_least=0)
    gamma: float = option(default=0.25, help="how much more positive weights count in the γ rule", at_least=0)

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""

        def start(output: Output) -> Starts:
            return [(value, value.detach() * gradient) for value, gradient in output_gradients(output, target)]

        return pixel_relevance(x, self.rules(x), self.model.run, start).float().sum(1)
