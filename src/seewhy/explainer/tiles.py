"""Large images at their own resolution: tile by tile, with overlap, put together to one map."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seewhy.core.deep import DeepImage
from seewhy.core.images import MAX_PIXELS, ImageLike, ReadImage
from seewhy.core.maps import resize
from seewhy.core.preprocess import Preprocess
from seewhy.errors import ModelError, OptionError, TargetError
from seewhy.explanation import Explanation
from seewhy.methods.factory import MethodLike, as_method
from seewhy.models.adapter import VisionModel
from seewhy.targets import Target, TargetLike

LONG_SIDE = 4096
"""Pixels on the long side of the map, at most."""
VIEW = 2048
"""Pixels on the long side of the image in figures, at most."""


def explain_tiled(
    model: VisionModel,
    image: ImageLike,
    method: MethodLike | None = None,
    target: TargetLike = None,
    *,
    tile: int | tuple[int, int] | None = None,
    overlap: float = 0.25,
    batch_size: int = 16,
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> Explanation:
    """Explain a large image in tiles, where `explain` would shrink it to the model's input.

    The maps of tiles are not normalized one by one; where tiles overlap, they are averaged, with weights that fall
    towards the edges. Each tile costs what the method costs for an image: `options["tiles"]` of the result has their
    number. The model sees one tile at a time, so that what it takes in from far away is not in the map.

    Args:
        model: A model whose preprocessing is a `seewhy.Preprocess`.
        image: A path, PIL image, array or tensor.
        method: As for `seewhy.explain`.
        target: As for `seewhy.explain`, for all tiles; by default the model's answer to the whole image.
        tile: Side, or (rows, cols), of a tile in pixels of the image; by default the model's input, so that nothing is
            resized.
        overlap: The least share of a tile that it has in common with the next one, in [0, 1).
        batch_size: Tiles per call of the method.
        max_pixels: The largest image that is decoded.
        **options: Options of the method.

    Returns:
        One explanation of the whole image, its map at the image's resolution (long sides up to 4096).

    Raises:
        OptionError: The image is smaller than a tile, or the overlap is out of range.
        TargetError: The target is a place (a region, a box), which tiles do not have.
        ModelError: The preprocessing is a function of your own, or the model takes volumes.
    """
    recipe = model.preprocess
    if not isinstance(recipe, Preprocess):
        raise ModelError("tiles are cut for a seewhy.Preprocess; this model has another preprocessing")
    if not 0 <= overlap < 1:
        raise OptionError(f"overlap={overlap} is no share; use 0 to 0.9")
    configured = as_method(model, method, **options)
    read = model.opened(image, max_pixels)()
    rows, cols = (tile, tile) if isinstance(tile, int) else tile or recipe.size
    if rows > read.height or cols > read.width:
        raise OptionError(
            f"the image has {read.height}×{read.width} pixels, a tile {rows}×{cols}; use seewhy.explain, or a smaller "
            "tile="
        )
    started = time.perf_counter()
    settled = _settled(model, read, target) if configured.card.class_specific else None
    boxes = [(top, left) for top in _starts(read.height, rows, overlap) for left in _starts(read.width, cols, overlap)]
    native = replace(recipe, size=recipe.size, resize=None, crop="center")  # the whole tile becomes the input
    canvas = _Canvas(read.height, read.width, (rows, cols))
    for start in range(0, len(boxes), batch_size):
        part = boxes[start : start + batch_size]
        x = torch.stack([native(_cut(read, top, left, rows, cols)) for top, left in part])
        maps = configured(x.to(model.device, model.dtype), settled and settled.at([0] * len(part))).cpu()
        for (top, left), attribution in zip(part, maps, strict=True):
            canvas.add(attribution, top, left)
    return Explanation(
        attribution=canvas.map(),
        method=configured.card.name,
        model=model.name,
        target=settled.describe(0, model.class_names) if settled else {"kind": "none", "label": ""},
        layer=configured.layer_name,
        options={**configured.options, "tiles": len(boxes), "tile": [rows, cols], "overlap": overlap},
        image=_view(read),
        box=(0.0, 0.0, float(read.width), float(read.height)),
        image_size=(read.height, read.width),
        signed=configured.is_signed,
        seconds=time.perf_counter() - started,
        source=str(image) if isinstance(image, str) or hasattr(image, "__fspath__") else None,
        input_size=canvas.size,
    )


def _settled(model: VisionModel, read: ReadImage, target: TargetLike) -> Target:
    resolved = model.as_target(target)
    if resolved.kind in ("region", "detection"):
        raise TargetError(f"a {resolved.kind} has its place in the whole image; tiles take a class or a concept")
    resolved.check(1, model.classes)
    if resolved.depends_on_output:
        resolved = resolved.fixed(model.forward_checked(model.preprocess_batch([read])))
    return resolved


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where tiles begin along one axis: evenly spaced, from edge to edge."""
    count = 1 + -(-(length - side) // max(1, int(side * (1 - overlap))))
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]


def _cut(read: ReadImage, top: int, left: int, rows: int, cols: int) -> ReadImage:
    if isinstance(read, DeepImage):
        return replace(read, values=np.ascontiguousarray(read.values[top : top + rows, left : left + cols]))
    return read.crop((left, top, left + cols, top + rows))


def _view(read: ReadImage) -> Image.Image:
    whole = read.view() if isinstance(read, DeepImage) else read
    scale = min(1.0, VIEW / max(whole.size))
    return whole.resize((max(1, round(whole.width * scale)), max(1, round(whole.height * scale))))


class _Canvas:
    """A map that is put together from those of tiles."""

    def __init__(self, height: int, width: int, tile: tuple[int, int]) -> None:
        self._scale = min(1.0, LONG_SIDE / max(height, width))
        self.size = max(1, round(height * self._scale)), max(1, round(width * self._scale))
        self._tile = tile
        self._sum, self._weight = torch.zeros(self.size), torch.zeros(self.size)

    def add(self, attribution: Float[Tensor, "r c"], top: int, left: int) -> None:
        """Add the map of one tile, enlarged to its pixels."""
        rows, cols = (
            slice(round(start * self._scale), max(round((start + side) * self._scale), round(start * self._scale) + 1))
            for start, side in zip((top, left), self._tile, strict=True)
        )
        size = rows.stop - rows.start, cols.stop - cols.start
        weight = _ramp(size[0])[:, None] * _ramp(size[1])
        self._sum[rows, cols] += weight * resize(attribution, size)
        self._weight[rows, cols] += weight

    def map(self) -> Float[Tensor, "rows cols"]:
        """Return the weighted mean."""
        return self._sum / self._weight


def _ramp(n: int) -> Float[Tensor, " n"]:
    """Return weights along one side of a tile, from the edges up to 1 in the middle."""
    centers = torch.arange(n) + 0.5
    return torch.minimum(centers, n - centers) / (n / 2)
