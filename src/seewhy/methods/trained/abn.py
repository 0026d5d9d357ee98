"""Attention Branch Network: an attention map that is learned on one feature map, with its classifier."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.base import method
from seewhy.methods.trained.abn_net import ABNNet, ABNSettings
from seewhy.methods.trained.base import TrainedMethod


@method(
    name="abn",
    title="Attention Branch Network",
    summary="Where a classifier looks that was trained, together with this map, on one frozen feature map.",
    needs={Capability.FEATURES},
    signed=False,
    class_specific=False,
    trained=True,
    citation="Fukui et al., Attention Branch Network (CVPR 2019), section 3",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(0)),
)
class ABN(TrainedMethod):
    """a = σ(BN(conv(K → 1))) of the attention branch's K class maps, on the grid of the layer.

    The model below the layer is run once and stays frozen, so the perception branch (convolution, pooling, FC on
    x · a + x, x the normalized feature map) is a network of its own; in the paper it is the rest of the CNN, trained
    with all of it. The map is the same for every class.
    """

    networks = ABNSettings

    @staticmethod
    def build(settings: ABNSettings, shape: dict[str, Any], classes: int) -> ABNNet:
        """Return the networks with random weights."""
        return ABNNet(settings, shape["channels"], classes)

    def prepare(self) -> None:
        """Settle the layer that is read."""
        self.layer_ = self.model.layer(self.fitted.shape["layer"])

    def features(self, x: Tensor) -> Float[Tensor, "batch channels rows cols"]:
        """Return the layer's map, without gradients below it."""
        return self.model.activations(x, [self.layer_])[self.layer_.name]

    def attend(self, x: Tensor) -> Float[Tensor, "batch rows cols"]:
        """Return the attention map."""
        return self.net.attend(self.features(x))

    def classify(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the logits of the perception branch."""
        return self.net(self.features(x)).logits
