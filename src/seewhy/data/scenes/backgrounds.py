"""All that is not an object: ground, clutter, light, and the camera's faults.

Every float operation here is elementwise (IEEE, the same everywhere) or a sum of whole numbers (exact in any order);
Pillow's resize and blur work in fixed point. So a scene has the same bits on every machine.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFilter

Rgb = Float[ndarray, "3"]
ImageArray = Float[ndarray, "h w 3"]

_LUMA_TABLE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
JPEG_LUMA: Float[ndarray, "8 8"] = np.array(_LUMA_TABLE.split(), dtype=np.float64).reshape(8, 8)  # ITU-T T.81, K.1
_DCT_SCALE = 4096.0
_DCT: Float[ndarray, "8 8"] = np.rint(
    _DCT_SCALE
    * np.array(
        [
            [math.sqrt((1 if k == 0 else 2) / 8) * math.cos(math.pi * (2 * i + 1) * k / 16) for i in range(8)]
            for k in range(8)
        ]
    )
)


def color(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Rgb:
    """Draw a color (0 to 255 per channel) of any hue, with saturation and value from the ranges."""
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Float[ndarray, "size size"]:
    """Draw noise in [-1, 1] that varies over size / cells pixels."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64) / 127.5 - 1


def slope(rng: np.random.Generator, size: int) -> Float[ndarray, "size size"]:
    """Draw a plane in about [-1, 1] that rises in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    t = (np.arange(size, dtype=np.float64) + 0.5) / size * 2 - 1
    return (t[None] * math.cos(angle) + t[:, None] * math.sin(angle)) / math.sqrt(2)


def ground(rng: np.random.Generator, size: int) -> UInt8[ndarray, "size size 3"]:
    """Draw a background: two colors mixed by noise of four scales and a slope, then clutter, then a lens's blur."""
    first = color(rng, (0.05, 0.6), (0.25, 0.95))
    second = np.clip(first + rng.uniform(-70, 70, 3), 0, 255)
    mix = rng.uniform(0.2, 0.8) * slope(rng, size)
    for cells, strength in ((3, 0.7), (7, 0.5), (17, 0.35), (41, 0.25)):
        mix = mix + strength * rng.random() * smooth_noise(rng, size, cells)
    mix = np.clip(0.5 + 0.5 * mix, 0, 1)[..., None]
    image = Image.fromarray((first * (1 - mix) + second * mix).astype(np.uint8))
    _clutter(rng, image, first)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.6) * size / 96))
    return np.asarray(image)


def _clutter(rng: np.random.Generator, image: Image.Image, near: Rgb) -> None:
    """Draw sticks and pebbles: shapes with edges that are not an object of any class."""
    pen, size = ImageDraw.Draw(image), image.width
    for _ in range(int(rng.integers(0, 9))):
        tint = tuple(int(v) for v in np.clip(near + rng.uniform(-80, 80, 3), 0, 255))
        x, y = (int(v) for v in rng.integers(0, size, 2))
        if rng.random() < 0.5:
            dx, dy = (int(v) for v in rng.integers(-size // 2, size // 2, 2))
            pen.line((x, y, x + dx, y + dy), fill=tint, width=max(1, int(rng.integers(1, 4)) * size // 96))
        else:
            w, h = (int(v) for v in rng.integers(size // 24, size // 9, 2))
            pen.ellipse((x, y, x + w, y + h), fill=tint)


def light(rng: np.random.Generator, image: ImageArray) -> ImageArray:
    """Light unevenly: a slope and a slow noise multiply the image by about 0.7 to 1.25."""
    size = image.shape[0]
    field = 1 + rng.uniform(0, 0.2) * slope(rng, size) + rng.uniform(0, 0.1) * smooth_noise(rng, size, 3)
    return image * (rng.uniform(0.85, 1.1) * field)[..., None]


def camera(rng: np.random.Generator, image: ImageArray) -> UInt8[ndarray, "h w 3"]:
    """Blur, add grain and compress: what lies between the world and its image."""
    blurred = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    blurred = blurred.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.6)))
    grain = (rng.random(image.shape, dtype=np.float32) - 0.5) * np.float32(rng.uniform(2, 24))
    return compress(np.clip(np.asarray(blurred) + grain, 0, 255), rng.uniform(0.1, 1.0))


def compress(image: ImageArray, strength: float) -> UInt8[ndarray, "h w 3"]:
    """Apply JPEG's loss: 8 × 8 cosine blocks of luma and chroma, rounded in steps of the luma table × `strength`.

    The cosines are whole numbers (× 4096), so the products are exact and do not depend on the codec's or the BLAS's
    version. Chroma is rounded twice as coarsely instead of being subsampled.
    """
    h, w, _ = image.shape
    r, g, b = (np.floor(image[..., c]) for c in range(3))
    planes = np.stack([np.rint((r + 2 * g + b) / 4) - 128, b - g, r - g])  # the reversible color transform: exact
    blocks = planes.reshape(3, h // 8, 8, w // 8, 8).transpose(0, 1, 3, 2, 4)
    step = np.maximum(1, np.rint(JPEG_LUMA * strength))
    step = np.stack([step, 2 * step, 2 * step])[:, None, None]
    levels = np.rint((_DCT @ blocks @ _DCT.T) / _DCT_SCALE**2 / step)
    rounded = (_DCT.T @ (levels * step) @ _DCT) / _DCT_SCALE**2
    y, u, v = rounded.transpose(0, 1, 3, 2, 4).reshape(3, h, w)
    green = y + 128 - (u + v) / 4
    return np.clip(np.rint(np.stack([v + green, green, u + green], -1)), 0, 255).astype(np.uint8)
