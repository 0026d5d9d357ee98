"""Lines around masks, to be seen on any image."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image, ImageFilter


def resize_mask(mask: Bool[ndarray, "h w"], size: tuple[int, int]) -> Bool[ndarray, "rows cols"]:
    """Return the mask at another size (width, height): the nearest pixel."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def inner_border(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Return the mask's pixels with a 4-neighbor outside it; beyond the image counts as outside."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def outlined(image: Image.Image, mask: Bool[ndarray, "rows cols"]) -> Image.Image:
    """Draw the mask's border in white on black; thicker on larger images."""
    edge = inner_border(resize_mask(mask, image.size))
    pixels, width = np.array(image), max(1, image.width // 220)
    pixels[_dilate(edge, 2 * width)] = 0
    pixels[_dilate(edge, width)] = 255
    return Image.fromarray(pixels)


def _dilate(edge: Bool[ndarray, "rows cols"], by: int) -> Bool[ndarray, "rows cols"]:
    return np.asarray(Image.fromarray(edge).convert("L").filter(ImageFilter.MaxFilter(2 * by + 1))) > 0
