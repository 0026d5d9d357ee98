"""A map of a volume: slices of it are drawn, all on the scale of the whole map."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image, ImageDraw
from torch import Tensor

from seewhy.core.boxes import Box
from seewhy.core.fonts import font
from seewhy.core.heatmap import heatmap, overlay
from seewhy.core.images import ImageLike
from seewhy.errors import OptionError
from seewhy.explanation import VOLUME, Explanation

NAMES = ("depth", "row", "column")
LEAST_SIDE = 200
"""Pixels on the long side of the figure of a slice, at least."""
MODES = {"bilinear": "trilinear", "nearest": "nearest-exact"}


@dataclass(eq=False, repr=False)
class VolumeExplanation(Explanation):
    """One attribution map (depth, rows, cols) for one volume and one target.

    As `Explanation`, with figures of slices: `overlay()` draws the slice with the most relevance, `overlay(index=12)`
    another, and `seewhy.viz.slices_figure` several in a row. Boxes are of images; `mask()` is of volumes too.

    Attributes:
        volume: What the model saw, as gray levels in [0, 1], (depth, rows, cols); the map covers all of it.
    """

    axes: ClassVar[int] = 3

    volume: ndarray | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.volume is not None and self.image is None:
            self.image = self._picture(self.strongest_slice(), 0)

    # --- the numbers ---

    def resized(self, size: tuple[int, ...] | None = None, mode: str = "bilinear") -> Float[Tensor, "depth rows cols"]:
        """Return the map at another size.

        Args:
            size: Depth, rows and columns; by default those of the model's input.
            mode: `bilinear` (along depth as well) or `nearest`.

        Raises:
            OptionError: The mode is unknown, or there is no size and the input size is not known.
        """
        size = size or self.input_size
        if size is None or len(size) != 3 or min(size) < 1:
            raise OptionError("pass size=(depth, rows, cols)")
        if mode not in MODES:
            raise OptionError(f"unknown interpolation {mode!r} of volumes; choose from {', '.join(MODES)}")
        options: dict[str, Any] = {"align_corners": False} if mode == "bilinear" else {}
        return F.interpolate(self.attribution[None, None], size, mode=MODES[mode], **options)[0, 0]

    def on_image(self, outside: float = 0.0, mode: str = "bilinear") -> Float[Tensor, "depth rows cols"]:
        """Return the map at the size of the volume as it was given; the model saw all of it.

        Args:
            outside: Not needed, as nothing lies outside.
            mode: As in `resized`.

        Raises:
            OptionError: The size is not known (a `DataLoader`'s rows), or the mode.
        """
        if self.image_size is None:
            raise OptionError("the size of the original volume is not known; use resized((depth, rows, cols))")
        return self.resized(self.image_size, mode)

    def mask(self, threshold: float = 0.5) -> Bool[Tensor, "depth rows cols"]:
        """Return where the map, at the volume's size, is above a share of its largest value; nowhere if constant.

        Args:
            threshold: The share, in [0, 1).

        Raises:
            OptionError: The threshold is out of range, or the size of the volume is not known.
        """
        return super().mask(threshold)

    def boxes(self, threshold: float = 0.5, min_area: float = 0.001) -> list[Box]:
        """Refuse: boxes are of images.

        Args:
            threshold: As in `mask`.
            min_area: As in `Explanation.boxes`.

        Raises:
            OptionError: Always.
        """
        raise OptionError("boxes are of images; of a volume use mask(), which marks its voxels")

    # --- slices ---

    def strongest_slice(self, axis: int = 0) -> int:
        """Return the slice of the input with the most relevance: the largest sum of magnitudes, above the least value.

        Args:
            axis: 0 for slices along depth, 1 along rows, 2 along columns.
        """
        values = self.resized(self._shape).abs() if self.signed else self.resized(self._shape)
        return int((values - values.min()).movedim(_axis(axis), 0).flatten(1).sum(1).argmax())

    @property
    def _shape(self) -> tuple[int, ...]:
        known = self.input_size or (None if self.volume is None else self.volume.shape)
        return tuple(known or self.attribution.shape)

    def overlay(
        self,
        alpha: float = 0.8,
        size: tuple[int, int] | None = None,
        mode: str = "bilinear",
        clip: float | None = None,
        index: int | None = None,
        axis: int = 0,
    ) -> Image.Image:
        """Draw the map over one slice, with its number; colors are on the scale of the whole map.

        Args:
            alpha: As in `seewhy.viz.overlay`.
            size: Likewise; by default those of the slice, small ones enlarged.
            mode: Likewise, `bilinear` or `nearest`.
            clip: Likewise.
            index: Which slice of the input, negative from the end; by default the one with the most relevance.
            axis: 0 for slices along depth, 1 along rows, 2 along columns.

        Raises:
            OptionError: There is no such slice or axis, or another option is out of range.
        """
        one = self._slice(index, axis)
        return self._numbered(overlay(one, alpha, size or one.figure_size, mode, clip), index, axis)

    def heatmap(
        self,
        size: tuple[int, int] | None = None,
        mode: str = "bilinear",
        clip: float | None = None,
        index: int | None = None,
        axis: int = 0,
    ) -> Image.Image:
        """Draw one slice of the map alone; arguments as in `overlay`.

        Args:
            size: As in `overlay`.
            mode: As in `overlay`.
            clip: As in `overlay`.
            index: As in `overlay`.
            axis: As in `overlay`.

        Raises:
            OptionError: As `overlay`.
        """
        one = self._slice(index, axis)
        return heatmap(one, size or one.figure_size, mode, clip)

    def overlay_on_image(
        self, image: ImageLike | None = None, alpha: float = 0.8, long_side: int = 2048
    ) -> Image.Image:
        """Draw the strongest slice: the model saw all of the volume.

        Args:
            image: Not needed.
            alpha: As in `overlay`.
            long_side: Not needed.
        """
        return self.overlay(alpha)

    def _index(self, index: int | None, axis: int) -> int:
        count = self._shape[_axis(axis)]
        if index is None:
            return self.strongest_slice(axis)
        if not -count <= index < count:
            raise OptionError(f"there is no slice {index} along {NAMES[axis]}; the input has {count}: 0 to {count - 1}")
        return index % count

    def _slice(self, index: int | None, axis: int) -> _Slice:
        index = self._index(index, axis)
        values = self.normalized()[None, None]
        size = list(values.shape[2:])
        size[axis] = self._shape[axis]
        along = F.interpolate(values, size, mode="trilinear", align_corners=False)[0, 0]
        rows, cols = (side for place, side in enumerate(self._shape) if place != axis)
        return _Slice(
            along.select(axis, index), self._picture(index, axis), self.signed, self.hides, (rows, cols), self.warnings
        )

    def _picture(self, index: int, axis: int) -> Image.Image | None:
        if self.volume is None:
            return None
        levels = np.rint(np.take(self.volume, index, axis) * 255).astype(np.uint8)
        return Image.fromarray(levels).convert("RGB")

    def _numbered(self, figure: Image.Image, index: int | None, axis: int) -> Image.Image:
        """Write into a corner which slice it is."""
        text = f"{NAMES[axis]} {self._index(index, axis)} of {self._shape[axis]}"
        points = max(9, figure.width // 18)
        draw = ImageDraw.Draw(figure)
        box = draw.textbbox((0, 0), text, font=font(points))
        draw.rectangle((0, 0, box[2] + 8, box[3] + 6), fill="#1a1a1a")
        draw.text((4, 2), text, fill="white", font=font(points))
        return figure

    # --- on disk ---

    def _write_more(self, draft: Path) -> None:
        if self.volume is not None:
            from safetensors.numpy import save_file

            save_file({"volume": np.ascontiguousarray(self.volume)}, draft / VOLUME)

    @classmethod
    def _read_more(cls, folder: Path) -> dict[str, Any]:
        from safetensors.numpy import load_file

        path = folder / VOLUME
        return {"volume": load_file(path)["volume"]} if path.is_file() else {}


@dataclass(frozen=True, eq=False)
class _Slice:
    """One slice as something that can be drawn; its values are normalized with the whole map."""

    attribution: Float[Tensor, "rows cols"]
    image: Image.Image | None
    signed: bool
    hides: bool
    input_size: tuple[int, int]
    warnings: list[str]

    @property
    def figure_size(self) -> tuple[int, int]:
        """Rows and columns of its figure: a multiple of its own, on which a number can be read."""
        rows, cols = self.input_size
        times = max(1, -(-LEAST_SIDE // max(rows, cols)))
        return rows * times, cols * times

    def normalized(self) -> Float[Tensor, "rows cols"]:
        """Return the values as they are."""
        return self.attribution


def _axis(axis: int) -> int:
    if axis not in (0, 1, 2):
        raise OptionError(f"axis={axis} is none of 0 (depth), 1 (rows) and 2 (columns)")
    return axis
