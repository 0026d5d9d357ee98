"""Attention Lattice Adapter: a map that is learned beside a frozen transformer, with its classifier."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.base import method
from seewhy.methods.trained.ala_net import ALANet, ALASettings
from seewhy.methods.trained.base import TrainedMethod
from seewhy.methods.trained.levels import read_levels
from seewhy.methods.trained.lora import lora_applied
from seewhy.models.structure import Layer


@method(
    name="ala",
    title="Attention Lattice Adapter",
    summary="Where a classifier looks that was trained, together with this map, on the frozen encoder.",
    needs={Capability.TOKENS},
    signed=False,
    class_specific=False,
    trained=True,
    citation="Hirano et al., Attention Lattice Adapter (ACCV 2024), section 4",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(0)) if self.cut_layer else Cost.whole(0),
)
class ALA(TrainedMethod):
    """α = σ(f¹(h_l)): h_l the side transformer's output, to which features of several levels of the encoder are added.

    The map lies on the side transformer's grid and is the same for every class. It needs the encoder up to the deepest
    level that is added (with the default three quarters of its blocks), with LoRA's deltas added by hooks: no weight
    is written. `classifier` is the perception branch, f_PB(α ⊙ h^(k)).

    `seewhy.training.fit_explainer("ala", model, data, …)` and `seewhy train ala` train it; docs/trained.md says what
    the paper leaves open and what is chosen here.
    """

    networks = ALASettings

    @staticmethod
    def build(settings: ALASettings, shape: dict[str, Any], classes: int) -> ALANet:
        """Return the networks with random weights."""
        channels, rows, cols = shape["image"]
        return ALANet(settings, (channels, rows, cols), shape["channels"], shape["depth"], classes)

    @property
    def cut_layer(self) -> Layer | None:
        """The deepest block that is read; None where the map is made of the image alone."""
        deepest = max(self.net.side.levels, default=None)
        if deepest is None:
            return None
        return self.model.layer(self.model.structure.blocks[max(deepest, 1) - 1].name)

    def attend(self, x: Tensor) -> Float[Tensor, "batch rows cols"]:
        """Return α."""
        return self.net.attend(x, read_levels(self.model, x, self.net.side.levels))[1].squeeze(1)

    def classify(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the logits of the perception branch."""
        return self.net(x, read_levels(self.model, x, (*self.net.side.levels, self.net.depth))).logits

    def deltas_applied(self) -> AbstractContextManager[None]:
        """In the block, the encoder has its LoRA deltas, if there are any."""
        s = self.settings
        return lora_applied(self.model, self._deltas, s.lora_alpha / max(1, s.lora_rank))
