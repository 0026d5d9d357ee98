"""LaFAM: the mean activation of a layer, without labels and without gradients."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from seewhy.methods.base import Method, option
from seewhy.registry import Cost, Need, method
from seewhy.targets import Target


@method(
    name="lafam",
    title="LaFAM",
    summary="Where the layer is active at all, whatever the class: the mean over its channels.",
    needs={Need.FEATURES},
    signed=False,
    class_specific=False,
    citation="Karjauv & Albayrak, LaFAM (2024), seed 000",
    cost=lambda self: Cost(below=1, above=0),
)
class LaFAM(Method):
    """M = (1/C) Σ_c A_c, the channel mean of a layer's output A, (B, C, rows, cols).

    No weights, no ReLU: on the last stage of a ResNet, which ends in a ReLU, the map is not negative by itself.
    One truncated forward; nothing above the layer runs. The paper goes on with min-max and nearest upsampling:
    `Explanation.normalized` and `.resized("nearest")`. On a ViT: the mean over the channels of the patch tokens
    after the last block (the paper leaves ViTs open).
    """

    layer: Any = option(None, "layer by dotted name, module or stage number; default: the last stage")

    def prepare(self) -> None:
        self.at = self.model.layer(self.layer)

    def maps(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        return self.model.activations(x, [self.at])[self.at.name].mean(1)
