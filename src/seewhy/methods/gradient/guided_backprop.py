"""Guided backprop: the gradient, as far as it is positive at every ReLU."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import method
from seewhy.methods.gradient.relu_rules import ReLUMethod
from seewhy.targets import Target


@method(
    name="guided_backprop",
    title="Guided backprop",
    summary="Fine structures whose neurons all push the score up; sharp, but it depends little on the class.",
    needs={Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    volumes=True,
    citation="Springenberg et al., Striving for Simplicity (2014), section 3.4",
    cost=lambda self: Cost.whole(1, 1),
)
class GuidedBackprop(ReLUMethod):
    """M_ij = max over channels of |R_cij|, R as ∂f/∂x, but at each ReLU with input z: R_z = 1[z > 0] 1[R > 0] R.

    ReLUs only, as modules or as functions, in place or not, ReLU6 among them (open where 0 < z < 6). A model without
    any is refused: its plain gradient would be another method. Where a model mixes ReLUs with other activations,
    those keep their own derivative. Captum gives the channels one by one, with their sign: `signed=True`.
    """

    rule = "guided"

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        return self.per_pixel(self.ruled_input_gradient(x, target))
