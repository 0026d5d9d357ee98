"""Saliency: how much the score reacts to each pixel."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import input_gradient, method
from seewhy.methods.gradient.channels import PixelMagnitudes
from seewhy.targets import Target


@method(
    name="saliency",
    title="Saliency",
    summary="How strongly the score reacts to each pixel, whichever way.",
    needs={Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    volumes=True,
    citation="Simonyan et al., Deep Inside Convolutional Networks (2013), arXiv:1312.6034, section 3.1",
    cost=lambda self: Cost.whole(1, 1),
)
class Saliency(PixelMagnitudes):
    """M_ij = max over channels of |∂f/∂x_cij|, at the input's resolution (`channels`, `signed`: other readings)."""

    scores_once = shares_gradients = True

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        return self.per_pixel(input_gradient(self.model, x, target))
