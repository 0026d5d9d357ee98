"""Deconvnet: the score sent back through the network, with only what is positive kept at every ReLU."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import method
from seewhy.methods.gradient.relu_rules import ReLUMethod
from seewhy.targets import Target


@method(
    name="deconvnet",
    title="Deconvnet",
    summary="Which structures the network would draw back into the image from the score.",
    needs={Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    volumes=True,
    citation="Zeiler & Fergus, Visualizing and Understanding Convolutional Networks (ECCV 2014), section 2.1",
    cost=lambda self: Cost.whole(1, 1),
)
class Deconvnet(ReLUMethod):
    """M_ij = max over channels of |R_cij|, R as ∂f/∂x, but at each ReLU: R_z = 1[R > 0] R, whatever its input z.

    Seen as a backward pass with another rule for ReLUs (Simonyan et al., 2013, section 4): max pooling goes back
    through its switches, as in the paper. ReLUs only, with the same care as `guided_backprop`.
    """

    rule = "deconvnet"

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        return self.per_pixel(self.ruled_input_gradient(x, target))
