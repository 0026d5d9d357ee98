"""Several layers as one feature vector per position: what NAVE clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.errors import OptionError
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer

CNN_STAGES = 3  # of a ResNet: stages 2 to 4


def kept_layers(model: VisionModel, specs: Any) -> list[Layer]:
    """Return the layers that are clustered, from shallow to deep, each once.

    Args:
        model: The model.
        specs: Layers by name, module or number; by default all blocks of a transformer with one grid throughout, and
            the last three stages of everything else.

    Raises:
        OptionError: When `specs` is not a list, or an empty one.
        UnknownNameError: When the model has no layer of that name.
        LayoutError: When it is not known how a layer's output lies on the image.
    """
    if specs is None:
        stages = model.structure.stages
        return list(stages if model.structure.blocks else stages[-CNN_STAGES:])
    if isinstance(specs, str) or not isinstance(specs, Sequence) or not specs:
        raise OptionError(f"layers={specs!r} is not a list of layers; give at least one, as layers=['a', 'b']")
    order = [name for name, _ in model.module.named_modules()]
    layers = {layer.name: layer for layer in map(model.layer, specs)}
    return sorted(layers.values(), key=lambda layer: order.index(layer.name))


def layer_weights(channels: Sequence[int], balance: str) -> list[float]:
    """Return (1 + C_0) / (1 + C_l) of each layer, so that layers with more channels than the first count less.

    Args:
        channels: C_l of each layer.
        balance: `channels`, or `equal` for weights of 1.
    """
    return [1.0 if balance == "equal" else (1 + channels[0]) / (1 + c) for c in channels]


def positions(
    maps: Sequence[Float[Tensor, "batch _ _ _"]], size: tuple[int, int], weights: Sequence[float]
) -> Float[Tensor, "batch positions channels"]:
    """Put all layers' channels at every position of one grid together.

    Each position of each layer gets unit L2 norm, then the layer's weight, then bicubic interpolation to `size`.
    float32; the result is written once, and one layer at a time is held beside it.
    """
    rows, cols = size
    widths = [m.shape[1] for m in maps]
    features = torch.empty(len(maps[0]), rows * cols, sum(widths), device=maps[0].device, dtype=torch.float32)
    for layer_map, weight, part in zip(maps, weights, features.split(widths, dim=2), strict=True):
        unit = F.normalize(layer_map.float(), dim=1)
        if unit.shape[-2:] != (rows, cols):
            unit = F.interpolate(unit, (rows, cols), mode="bicubic", align_corners=False)
        part.copy_(unit.flatten(2).transpose(1, 2)).mul_(weight)
    return features
