"""LaFAM: the mean activation of a layer, without labels and without gradients."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.errors import OptionError
from seewhy.methods.base import Method, method, option, upcast
from seewhy.methods.cam.base import unit_range
from seewhy.targets import Target


@method(
    name="lafam",
    title="LaFAM",
    summary="Where the layer is active at all, whatever the class: the mean over its channels.",
    needs={Capability.FEATURES},
    signed=False,
    class_specific=False,
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

    The paper leaves ViTs open. Here A are the patch tokens after the last block; their channel mean may be negative,
    and its sign means nothing, so `reduce="norm"` has the length of each token, √Σ_c A_c². The third of the family,
    what the class token attends to, is the method `attention_map`.
    """

    layer: Any = option(default=None, help="layer by dotted name, module or stage number; default: the last stage")
    reduce: str = option(
        default="mean",
        help="over the channels: their mean (the paper), or their Euclidean norm",
        choices=("mean", "norm"),
    )
    threshold: float | None = option(
        default=None, help="after min-max, values below it become 0; between 0 and 1", at_least=0
    )

    def setup(self) -> None:
        """Settle the layer and check the threshold."""
        self.layer_ = self.model.layer(self.layer)
        if self.threshold is not None and not self.threshold <= 1:
            raise OptionError(f"threshold={self.threshold!r} is above 1, the largest value after min-max; use 0 to 1")

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        features = upcast(self.model.activation(x, self.layer_))
        maps = features.mean(1) if self.reduce == "mean" else features.norm(dim=1)
        if self.threshold is None:
            return maps
        maps = unit_range(maps)
        return maps * (maps >= self.threshold)
