"""Grad-CAM: a layer's channels, weighted by how much the score grows with them."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.base import method, option
from seewhy.methods.cam.base import SingleLayerCAM, cells


@method(
    name="grad_cam",
    title="Grad-CAM",
    summary="Where the channels lie that raise the score, on the grid of a deep layer.",
    needs={Capability.FEATURES, Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    volumes=True,
    citation="Selvaraju et al., Grad-CAM (ICCV 2017), eq. 1-2",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(1, 1)),
)
class GradCAM(SingleLayerCAM):
    """w_c = mean over positions of ∂f/∂A_c; M = ReLU(Σ_c w_c A_c).

    On a ViT, A is the output of the norm before the last attention, on the patch grid; the mean is over patch
    tokens only (prefix tokens have no position). One forward; gradients exist from the layer up only.
    """

    relu: bool = option(default=True, help="clip negative values, as in the paper")

    @staticmethod
    def combine(
        activations: Float[Tensor, "batch channels *grid"], gradients: Float[Tensor, "batch channels *grid"]
    ) -> Float[Tensor, "batch *grid"]:
        """Combine activations and gradients to the signed map.

        Args:
            activations: The layer's output on its grid.
            gradients: ∂ score / ∂ activations.
        """
        return (gradients.mean(cells(gradients), keepdim=True) * activations).sum(1)

    def of_layer(
        self, activations: Float[Tensor, "batch channels *grid"], gradients: Float[Tensor, "batch channels *grid"]
    ) -> Float[Tensor, "batch *grid"]:
        """Return the map of one layer, clipped if `relu` says so.

        Args:
            activations: The layer's output on its grid.
            gradients: ∂ score / ∂ activations.
        """
        maps = self.combine(activations, gradients)
        return maps.relu() if self.relu else maps
