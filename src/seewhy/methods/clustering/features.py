"""Several layers as one feature vector for each position: what NAVE clusters."""

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
    """The layers by name, module or number, from shallow to deep, each once.

    By default all blocks of a transformer with one grid throughout, and the last three stages of everything else.

    Raises:
        OptionError: not a list, or an empty one. UnknownNameError, LayoutError: no such layer.
    """
    if specs is None:
        stages = model.structure.stages
        return list(stages if model.structure.blocks else stages[-CNN_STAGES:])
    if isinstance(specs, str) or not isinstance(specs, Sequence) or not specs:
        raise OptionError(f"layers={specs!r} is no list of layers; give at least one, as layers=['a', 'b']")
    order = [name for name, _ in model.module.named_modules()]
    found = {layer.name: layer for layer in map(model.layer, specs)}
    return sorted(found.values(), key=lambda layer: order.index(layer.name))


def layer_weights(channels: Sequence[int], balance: str) -> list[float]:
    """(1 + C_0) / (1 + C_l): layers with more channels than the first kept one count less. Or 1 for all (`equal`)."""
    return [1.0 if balance == "equal" else (1 + channels[0]) / (1 + c) for c in channels]


def positions(
    maps: Sequence[Float[Tensor, "batch _ _ _"]], size: tuple[int, int], weights: Sequence[float]
) -> Float[Tensor, "batch positions channels"]:
    """All layers' channels at every position of one grid.

    Each position of each layer gets unit L2 norm, then the layer's weight, then bicubic interpolation to `size`.
    float32; the result is written once, and one layer at a time is held beside it.
    """
    rows, cols = size
    widths = [m.shape[1] for m in maps]
    found = torch.empty(len(maps[0]), rows * cols, sum(widths), device=maps[0].device, dtype=torch.float32)
    for m, weight, part in zip(maps, weights, found.split(widths, dim=2), strict=True):
        unit = F.normalize(m.float(), dim=1)
        if unit.shape[-2:] != (rows, cols):
            unit = F.interpolate(unit, (rows, cols), mode="bicubic", align_corners=False)
        part.copy_(unit.flatten(2).transpose(1, 2)).mul_(weight)
    return found
