"""Guided Grad-CAM: guided backprop's fine structures, where Grad-CAM sees the class."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.core.maps import linear
from seewhy.methods.base import gradient, input_leaf, method, option, upcast
from seewhy.methods.cam.grad_cam import GradCAM
from seewhy.methods.gradient.relu_rules import ReLUMethod, ReLURule
from seewhy.models.instrument.hooks import first_tensor, hooked, with_first_tensor
from seewhy.targets import Target


@method(
    name="guided_grad_cam",
    title="Guided Grad-CAM",
    summary="Fine structures that push the score up, in the places that Grad-CAM finds for the class.",
    needs={Capability.FEATURES, Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    volumes=True,
    citation="Selvaraju et al., Grad-CAM (ICCV 2017), section 3.2",
    cost=lambda self: Cost.split(below=Passes(1, 1), above=Passes(1, 2)),
)
class GuidedGradCAM(ReLUMethod):
    """M = max over channels of |R| · up(ReLU(Σ_c w_c A_c)): guided backprop times Grad-CAM, upsampled bilinearly.

    One forward serves both: the plain gradient goes back to the layer, then the guided one to the pixels. Captum
    gives the channels one by one, with their sign, and by default upsamples to the nearest cell. At the pixels.
    """

    layer: Any = option(
        default=None, help="layer by dotted name, module or stage number; default: the last that can be explained"
    )

    rule = "guided"

    def setup(self) -> None:
        """Settle the layer of Grad-CAM."""
        self._layer = self.model.cam_layer(self.layer)

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        kept: list[Tensor] = []

        def keep(_: Any, __: tuple[Any, ...], output: Any) -> Any:
            kept.append(first_tensor(output))
            return with_first_tensor(output, kept[-1].clone())  # an in-place ReLU must not change what was kept

        layer = self.model.submodule(self._layer.name)
        mode = ReLURule("gradient")
        with input_leaf(self.model, x) as (leaf, index), mode, hooked(layer, keep):
            score = target.score(self.model.run(leaf))
        self.ensure_seen(mode)
        plain = gradient(score, kept[0], keep=True, index=index)
        mode.rule = self.rule
        guided = self.per_pixel(gradient(score, leaf, index=index))
        kept[0] = index.expand(kept[0]) if index else kept[0]
        pair = (self.model.to_grid(upcast(t.detach()), self._layer, x.shape[-2:]) for t in (kept[0], plain))
        cam = GradCAM.combine(*pair).relu()[:, None]
        return guided * F.interpolate(cam, x.shape[2:], mode=linear(cam), align_corners=False)[:, 0]
