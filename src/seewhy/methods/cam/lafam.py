"""LaFAM: the mean activation of a layer, without labels and without gradients."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.errors import OptionError
from seewhy.methods.base import Method, method, option, upcast
from seewhy.methods.cam.base import cells, unit_range
from seewhy.targets import Output, Target


@method(
    name="lafam",
    title="LaFAM",
    summary="Where the layer is active at all, whatever the class: the mean over its channels.",
    needs={Capability.FEATURES},
    signed=False,
    class_specific=False,
    volumes=True,
    citation="Karjauv & Albayrak, LaFAM (2024), arXiv:2407.06059",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(0)),
)
class LaFAM(Method):
    """M = (1/C) Σ_c A_c, the channel mean of a layer's output A, (B, C, rows, cols).

    No weights, no ReLU of its own. A is the activation: where a ReLU that is a function, not a layer with a name, comes
    right after the layer (DenseNet), A is what comes out of it. On the last stage of a ResNet, which ends in a ReLU,
    the map is not negative by itself.
    One truncated forward; nothing above the layer runs. By default the map is raw. The paper goes on with min-max to
    [0, 1], an optional threshold (`threshold`, which implies the min-max) and nearest upsampling
    (`Explanation.resized(mode="nearest")`).

    The paper leaves ViTs open; what follows is ours. A token's channels have no sign that means anything: their mean is
    below chance on the ViTs that we measured. Where A are tokens the map is therefore how far each lies from the mean
    token of its image, `reduce="distance"`: √Σ_c (A_c − Ā_c)², and the layer that of the CAM methods, the first norm of
    the last block, because what a class token no longer listens to is not trained. It finds objects at least as well
    as the attention map, and needs no class token. The numbers stand in docs/studies/lafam_vit.md.
    """

    layer: Any = option(
        default=None,
        help="layer by dotted name, module or stage number; default: the last stage, of tokens the last norm before "
        "the attention",
    )
    reduce: str = option(
        default="auto",
        help="over the channels: their mean (the paper), their Euclidean norm, or that of their distance to the mean "
        "over all positions; auto: the distance for tokens, else the mean",
        choices=("auto", "mean", "norm", "distance"),
    )
    threshold: float | None = option(
        default=None, help="after min-max, values below it become 0; between 0 and 1", at_least=0
    )

    def setup(self) -> None:
        """Settle the layer and check the threshold."""
        self.layer_ = self.model.layer(self.layer)
        tokens = self.layer_.layout in ("tokens", "sequence")
        if tokens and self.layer is None:
            self.layer_ = self.model.cam_layer()
        self.reduce_ = self.reduce if self.reduce != "auto" else "distance" if tokens else "mean"
        if self.threshold is not None and not self.threshold <= 1:
            raise OptionError(f"threshold={self.threshold!r} is above 1, the largest value after min-max; use 0 to 1")

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        return self._map(self.model.activation(x, self.layer_))

    def complete(self, x: Tensor) -> tuple[Float[Tensor, "batch *grid"], Output]:
        """Compute the maps in a forward that goes on to the answer."""
        activation, output = self.model.activation_and_output(x, self.layer_)
        return self._map(activation), output

    def _map(self, activation: Float[Tensor, "batch channels *grid"]) -> Float[Tensor, "batch *grid"]:
        features = upcast(activation)
        if self.reduce_ == "mean":
            maps = features.mean(1)
        elif self.reduce_ == "norm":
            maps = features.norm(dim=1)
        else:
            maps = (features - features.mean(cells(features), keepdim=True)).norm(dim=1)
        if self.threshold is None:
            return maps
        maps = unit_range(maps, maps.ndim - 1)
        return maps * (maps >= self.threshold)
