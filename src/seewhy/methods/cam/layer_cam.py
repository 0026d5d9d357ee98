"""Layer-CAM: each position weighted by its own gradient, so that shallow layers give fine maps."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.base import method
from seewhy.methods.cam.base import SingleLayerCAM


@method(
    name="layer_cam",
    title="Layer-CAM",
    summary="Which positions of a layer raise the score by what they hold, each with its own weight.",
    needs={Capability.FEATURES, Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    volumes=True,
    citation="Jiang et al., LayerCAM (IEEE TIP 2021), eq. 5-7",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(1, 1)),
)
class LayerCAM(SingleLayerCAM):
    """M_ij = ReLU(Σ_c ReLU(∂f/∂A_cij) A_cij), on the layer's grid.

    The paper fuses shallow layers after tanh(2 M / max M); that is display, and `refine_cam` is the method here that
    joins layers.
    """

    @staticmethod
    def combine(
        activations: Float[Tensor, "batch channels *grid"], gradients: Float[Tensor, "batch channels *grid"]
    ) -> Float[Tensor, "batch *grid"]:
        """Combine activations and gradients to the map.

        Args:
            activations: The layer's output on its grid.
            gradients: ∂ score / ∂ activations.
        """
        return (gradients.relu() * activations).sum(1).relu()
