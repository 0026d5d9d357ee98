"""Where is this cell of a volume? Poke and see, as `probe` does for images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from seewhy.errors import LayoutError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import collecting, untouched
from seewhy.models.structure import Layer, Structure

CENTERS = ((0.15, 0.8, 0.3), (0.8, 0.3, 0.7), (0.4, 0.15, 0.85), (0.6, 0.6, 0.1), (0.9, 0.85, 0.5))
"""Where one box of voxels is changed at a time, as shares of depth, rows and columns; no symmetry maps them."""
ENOUGH = 3
"""How many of the changes must show in their place, or beside it."""
FAINT = 1e-4
"""The change, as a share of the layer's largest value, below which rounding could be what is seen."""


def verified_volume(model: VisionModel, size: Sequence[int], channels: int) -> Structure:
    """Return the model's structure without stages in which changed voxels show elsewhere.

    Args:
        model: The model.
        size: Depth, rows and columns of its volumes.
        channels: Channels of its volumes.

    Raises:
        LayoutError: The layer for gradients does not lie as the structure says.
    """
    structure = model.structure
    layers = list(dict.fromkeys([*structure.stages, *filter(None, [structure.cam_layer])]))
    if not layers:
        return structure
    modules = {layer.name: model.submodule(layer.name) for layer in layers}
    with torch.no_grad(), untouched(model.module), collecting(modules) as raw:
        model.module(_poked(model, size, channels))
    lost = [layer for layer in layers if not _in_place(model, layer, raw[layer.name], size)]
    if structure.cam_layer in lost:
        raise LayoutError(
            f"{structure.cam_layer.name}: changed voxels show in other places of its output; say which layers lie on "
            "a grid, wrap(module, layers=[…]); verify=False leaves this check out"
        )
    if not lost:
        return structure
    note = f"left out, as changed voxels show elsewhere in it: {', '.join(layer.name for layer in lost)}"
    stages = tuple(layer for layer in structure.stages if layer not in lost)
    return replace(structure, stages=stages, note="; ".join(filter(None, (structure.note, note))))


def _poked(model: VisionModel, size: Sequence[int], channels: int) -> Tensor:
    """Make a volume of noise and, for each center, that volume with other values around it."""
    volume = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    volumes = volume.repeat(1 + len(CENTERS), 1, 1, 1, 1)
    for i, center in enumerate(CENTERS, start=1):
        ends = (_ends(share, side) for share, side in zip(center, size, strict=True))
        depth, rows, cols = (slice(start, stop) for start, stop in ends)
        volumes[i, :, depth, rows, cols] += 2.0
    return volumes.to(device=model.device, dtype=model.dtype)


def _ends(share: float, side: int) -> tuple[int, int]:
    length = max(1, side // 8)
    start = min(side - length, int(share * side))
    return start, start + length


def _in_place(model: VisionModel, layer: Layer, value: Tensor, size: Sequence[int]) -> bool:
    """Tell whether most changes show where they were made; True also where nothing can be told."""
    maps = model.to_grid(value, layer, size).double()
    change = maps[1:] - maps[:1]
    change = (change - change.mean((2, 3, 4), keepdim=True)).norm(dim=1)
    if min(maps.shape[2:]) < 3 or bool(change.max() < FAINT * maps.abs().max()):
        return True
    right = 0
    for center, each in zip(CENTERS, change, strict=True):
        found = torch.unravel_index(each.argmax(), each.shape)
        axes = zip(found, center, size, each.shape, strict=True)
        right += all(_is_beside(int(cell), *_ends(share, side), cells / side) for cell, share, side, cells in axes)
    return right >= ENOUGH


def _is_beside(cell: int, start: int, stop: int, cells_per_voxel: float) -> bool:
    """Tell whether a cell lies where the voxels from `start` to `stop` are, or next to them."""
    return int(start * cells_per_voxel) - 1 <= cell <= int((stop - 1) * cells_per_voxel) + 1
