"""RefineCAM: what the CAMs of several layers agree on, at the resolution of the finest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.core.maps import linear, spread_over
from seewhy.errors import LayoutError, OptionError
from seewhy.methods.base import Method, method, option
from seewhy.methods.cam.base import activations_and_gradients, unit_range
from seewhy.methods.cam.grad_cam import GradCAM
from seewhy.methods.cam.grad_cam_plus_plus import GradCAMPlusPlus
from seewhy.methods.cam.layer_cam import LayerCAM
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer
from seewhy.targets import Target

VIT_BLOCKS = 4
"""How many of a transformer's blocks count by default."""

CAMS = {cls.card.name: cls for cls in (GradCAMPlusPlus, GradCAM, LayerCAM)}


@method(
    name="refine_cam",
    title="RefineCAM",
    summary="Where the CAMs of all layers agree: the place from the deep ones, the outline from the shallow ones.",
    needs={Capability.FEATURES, Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    volumes=True,
    citation="Domeniconi et al., How to Evaluate and Refine your CAM (2026)",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(1, 1)),
)
class RefineCAM(Method):
    """M = s(Π_l up(s(M_l))), M_l the CAM of layer l, s min-max to [0, 1], up bilinear to the finest grid.

    The product goes from coarse to fine. A layer that says nothing (its map is the same everywhere: no position
    raises the score) makes the product zero, and a map of zeros is reported as constant. One forward, and one
    backward down to the shallowest layer, whatever the number of layers. On a ViT all layers have one grid and the
    product refines nothing but agreement.

    As in the authors' code, the layers are every stage of a CNN and the first norms of the last four blocks of a ViT,
    and Grad-CAM++ is the grad-cam package's (`alpha`). With our bounded α each map of a ViT may be zero where
    another is not, and then the product is zero everywhere. Their maps go up to the image before the product, which
    `grid="input"` does (min-max once more between); on the finest layer's grid it costs less and is nearly the same
    for a CNN.
    """

    scores_once = shares_gradients = True

    layers: Any = option(
        default=None,
        help="layers by dotted name, module or stage number; default: every stage, of a ViT norm1 of the last 4 blocks",
    )
    alpha: str = option(default="literal", help="α of grad_cam_plus_plus, see there", choices=("bounded", "literal"))
    grid: str = option(
        default="finest",
        help="where the maps are multiplied: on the grid of the finest layer, or at the image's pixels (the authors)",
        choices=("finest", "input"),
    )
    cam: str = option(default="grad_cam_plus_plus", help="the CAM of each layer", choices=tuple(CAMS))

    def setup(self) -> None:
        """Settle the layers."""
        self._layers = _layers(self.model, self.layers)
        self.layer_ = self._layers[0]

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        pairs = activations_and_gradients(self.model, x, self._layers, target)
        literal = self.cam == "grad_cam_plus_plus" and self.alpha == "literal"
        combine = GradCAMPlusPlus.combine_literally if literal else CAMS[self.cam].combine
        axes = x.ndim - 2
        cams = [unit_range(combine(*pair).relu(), axes) for pair in pairs]
        finest = [max(side) for side in zip(*(cam.shape[1:] for cam in cams), strict=True)]
        size = finest if self.grid == "finest" else x.shape[2:]
        refined = spread_over(x.new_ones(len(x), dtype=cams[-1].dtype), axes)
        for cam in reversed(cams):
            up = F.interpolate(cam[:, None], size, mode=linear(cam[:, None]), align_corners=False)[:, 0]
            refined = refined * (up if self.grid == "finest" else unit_range(up, axes))
        return unit_range(refined, axes)


def _layers(model: VisionModel, specs: Any) -> list[Layer]:
    """Return the layers from shallow to deep, each once."""
    if specs is None and model.structure.blocks:
        layers = [model.cam_layer(block.norm1) for block in model.structure.blocks[-VIT_BLOCKS:]]
    elif specs is None:
        layers = [s for s in model.structure.stages if _leads_to_the_score(model, s)] + [model.cam_layer()]
    elif isinstance(specs, Sequence) and not isinstance(specs, str) and specs:
        layers = [model.cam_layer(spec) for spec in specs]
    else:
        raise OptionError(f"layers={specs!r} is not a list of layers; give at least one, as layers=['a', 'b']")
    order = [name for name, _ in model.module.named_modules()]
    return sorted({layer.name: layer for layer in layers}.values(), key=lambda layer: order.index(layer.name))


def _leads_to_the_score(model: VisionModel, layer: Layer) -> bool:
    try:
        model.cam_layer(layer)
    except LayoutError:
        return False
    return True
