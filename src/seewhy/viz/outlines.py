"""Lines around masks, to be seen on any picture."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image, ImageFilter


def resized(mask: Bool[ndarray, "h w"], size: tuple[int, ...]) -> Bool[ndarray, "rows cols"]:
    """The mask at another size (width, height): the nearest pixel."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def border(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The mask's pixels with a 4-neighbor outside it; beyond the picture counts as outside."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def outlined(picture: Image.Image, mask: Bool[ndarray, "rows cols"]) -> Image.Image:
    """The mask's border in white on black; thicker on larger pictures."""
    edge = border(resized(mask, picture.size))
    pixels, line = np.array(picture), max(1, picture.width // 220)
    pixels[_grown(edge, 2 * line)] = 0
    pixels[_grown(edge, line)] = 255
    return Image.fromarray(pixels)


def _grown(edge: Bool[ndarray, "rows cols"], by: int) -> Bool[ndarray, "rows cols"]:
    return np.asarray(Image.fromarray(edge).convert("L").filter(ImageFilter.MaxFilter(2 * by + 1))) > 0
