"""Images that 8-bit RGB cannot hold: more levels, other values, other channels. Nothing of them is cut off."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from PIL import Image

from seewhy.errors import ImageError

# float images that went through a resize or a color transform overshoot by rounding; more than this is not an image
FLOAT_SLACK = 1e-4
PREPROCESSED = "looks like an already preprocessed tensor; call the method directly: seewhy.methods.X(model)(batch)"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in gray, as Pillow's."""

FAINT = 1 / 15
"""A 16-bit image whose largest level is below this share of the range is probably of fewer bits (12: 0.062)."""


class LowRangeWarning(UserWarning):
    """An image uses so little of its range of levels that the model sees it almost black."""


@dataclass(frozen=True, eq=False)
class DeepImage:
    """An image as it came, with what its values mean.

    Attributes:
        values: (rows, cols, channels), of any type of number.
        black: The value that is shown black; above `white` for negatives.
        white: The value that is shown white; None: by the type of the values (65535, 255, or 1 for floats).
        name: For messages.
    """

    values: ndarray
    black: float = 0.0
    white: float | None = None
    name: str = "the image"

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.values.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, in Pillow's order."""
        return self.width, self.height

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.values.shape[2])

    def native(self) -> Image.Image | ndarray:
        """Return it as a Pillow image where one can hold it (16 bits or floats, one channel), else the values."""
        if self.channels == 1 and self.values.dtype in (np.uint16, np.float32, np.int32):
            return Image.fromarray(self.values[..., 0])
        return self.values

    def levels(
        self, channels: int = 3, window: tuple[float, float] | None = None
    ) -> Float32[ndarray, "rows cols channels"]:
        """Return the image between 0 (black) and 255 (white), with fractions.

        Args:
            channels: How many are wanted: gray is repeated for 3, RGB becomes gray for 1.
            window: The values that are black and white, instead of the image's own; what is beyond is clipped.

        Raises:
            ImageError: It has other channels, or values whose meaning is not evident.
        """
        levels = self._levels(channels, window)
        if (
            window is None
            and self.values.dtype == np.uint16
            and self.values.max() < FAINT * 65535
            and self.white is None
        ):
            high = int(self.values.max())
            warnings.warn(
                f"{self.name} has 16 bits, and its levels end at {high}: the model sees it almost black; say which "
                f"level is white with Preprocess(levels=(0, {2 ** high.bit_length() - 1})) / --levels",
                LowRangeWarning,
                stacklevel=2,
            )
        return levels

    def _levels(self, channels: int, window: tuple[float, float] | None = None) -> ndarray:
        values = _with_channels(self.values, channels, self.name)
        black, white = window or self.range
        shares = (values.astype(np.float32) - np.float32(black)) / np.float32(white - black)
        levels: ndarray = np.clip(shares, 0, 1) * np.float32(255)
        return levels

    @cached_property
    def range(self) -> tuple[float, float]:
        """The values that are black and white.

        Raises:
            ImageError: The values do not tell.
        """
        if self.white is not None:
            return self.black, self.white
        kind = self.values.dtype.kind
        if kind == "f":
            return 0.0, _white_of_floats(self.values, self.name)
        if kind == "b":
            return 0.0, 1.0
        if self.values.dtype == np.uint16:
            return 0.0, 65535.0
        if kind not in "iu":
            raise ImageError(f"{self.name} has values of dtype {self.values.dtype}; pass uint8, or floats in [0, 1]")
        low, high = int(self.values.min()), int(self.values.max())
        if low < 0 or high > 255:
            raise ImageError(
                f"{self.name}: {self.values.dtype} values run from {low} to {high}; pass uint8 in [0, 255], uint16 for "
                f"16-bit images, or say what is black and white: Preprocess(levels=({low}, {high})) / --levels"
            )
        return 0.0, 255.0

    def view(self) -> Image.Image:
        """Return 8-bit RGB for people: other channels than RGB are left out, and dark or open ranges stretched."""
        bands = self.values if self.channels in (1, 3) else self.values[..., : 3 if self.channels > 3 else 1]
        try:
            black, white = self.range
        except ImageError:
            black, white = (float(np.nanmin(bands)), float(np.nanmax(bands)))
        if self.white is None and bands.size and float(np.nanmax(bands)) < black + (white - black) / 4:
            white = max(float(np.nanmax(bands)), black + 1e-12)
        span = white - black or 1.0
        levels = np.nan_to_num(np.clip((bands.astype(np.float32) - black) / span, 0, 1)) * 255
        gray = np.rint(levels).astype(np.uint8)
        return Image.fromarray(gray[..., 0] if gray.shape[2] == 1 else gray).convert("RGB")

    def rgb(self) -> Image.Image:
        """Return 8-bit RGB, on the scale of `levels`.

        Raises:
            ImageError: As `levels`.
        """
        return Image.fromarray(np.rint(self._levels(3)).astype(np.uint8))


def _with_channels(values: ndarray, channels: int, name: str) -> ndarray:
    have = values.shape[2]
    if have == channels:
        return values
    if have == 1 and channels == 3:
        return values.repeat(3, axis=2)
    if have == 3 and channels == 1:
        return (values.astype(np.float32) @ LUMA)[..., None].astype(values.dtype if values.dtype.kind == "f" else "f4")
    raise ImageError(
        f"{name} has {have} channel{'s' * (have > 1)} and the model takes {channels}; "
        "select them, as array[..., [0, 1]]"
    )


def _white_of_floats(values: ndarray, name: str) -> float:
    if not np.isfinite(values).all():
        raise ImageError(f"{name} holds NaN or infinity; repair it first, e.g. with numpy.nan_to_num")
    low, high = float(values.min()), float(values.max())
    settle = f"say what is black and white: Preprocess(levels=({low:.3g}, {high:.3g})) / --levels"
    if low < -FLOAT_SLACK:
        raise ImageError(
            f"{name}: its values run from {low:.3g} to {high:.3g}, not [0, 1]; {settle}, or it {PREPROCESSED}"
        )
    if high > 1 + FLOAT_SLACK:
        hint = "divide by 255" if high <= 255 else "scale it to [0, 1]"
        raise ImageError(f"{name}: its values run from {low:.3g} to {high:.3g}, not [0, 1]; {hint}, or {settle}")
    return 1.0
