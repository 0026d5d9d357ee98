"""Input × gradient: the first-order share of each pixel in the score."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import input_gradient, method
from seewhy.methods.gradient.channels import PixelShares
from seewhy.targets import Target


@method(
    name="input_x_gradient",
    title="Input × gradient",
    summary="The first-order share of each pixel in the score: for it (positive) or against it (negative).",
    needs={Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    volumes=True,
    citation="Shrikumar et al., Not Just a Black Box (2016)",
    cost=lambda self: Cost.whole(1, 1),
)
class InputXGradient(PixelShares):
    """M_ij = Σ_c x_cij ∂f/∂x_cij, with x as the model gets it (normalized): zero input means the mean color.

    Captum keeps the channels apart. Their sum is ours, so that the map has one value for each pixel and shares out
    the score; the CDAM paper's runs took the mean (`channels="mean"`), a third of it.
    """

    scores_once = shares_gradients = True

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        return self.per_pixel(x * input_gradient(self.model, x, target))
