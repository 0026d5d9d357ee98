"""The five surfaces of the synthetic world: the concept of an object is its texture, whatever its class.

A texture is the amount of ink (0 to 1) at each pixel of an object; the object's two colors are mixed by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

Ink = Float[ndarray, "h w"]


def _axes(rng: np.random.Generator, h: int, w: int, period: float) -> tuple[Ink, Ink]:
    """Return two perpendicular coordinates, in periods, turned by a random angle and shifted by a random phase."""
    angle = rng.uniform(0, math.pi)
    c, s = math.cos(angle) / period, math.sin(angle) / period
    y, x = np.arange(h, dtype=np.float64)[:, None], np.arange(w, dtype=np.float64)[None]
    return x * c + y * s + rng.random(), y * c - x * s + rng.random()


def _wave(u: Ink, period: float, duty: float = 0.5) -> Ink:
    """Return a square wave of `u`, its edges about a pixel wide."""
    distance = np.abs(u - np.floor(u) - 0.5)  # 0 in the middle of the ink, 0.5 in the middle of the gap
    return np.clip((duty / 2 - distance) * period + 0.5, 0, 1)


def _plain(rng: np.random.Generator, h: int, w: int, period: float) -> Ink:
    return np.zeros((h, w))


def _stripes(rng: np.random.Generator, h: int, w: int, period: float) -> Ink:
    u, _ = _axes(rng, h, w, period)
    return _wave(u, period)


def _dots(rng: np.random.Generator, h: int, w: int, period: float) -> Ink:
    u, v = _axes(rng, h, w, period)
    du, dv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return np.clip((0.32 - np.sqrt(du * du + dv * dv)) * period + 0.5, 0, 1)


def _checks(rng: np.random.Generator, h: int, w: int, period: float) -> Ink:
    u, v = _axes(rng, h, w, period * 1.15)
    a, b = _wave(u, period), _wave(v, period)
    return a + b - 2 * a * b


def _blotches(rng: np.random.Generator, h: int, w: int, period: float) -> Ink:
    rows, cols = (max(3, round(2 * side / period)) for side in (h, w))
    coarse = Image.fromarray(rng.integers(0, 256, (rows, cols), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((w, h), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.clip((smooth - 128) / 32 + 0.5, 0, 1)


PAINTERS: dict[str, Callable[[np.random.Generator, int, int, float], Ink]] = {
    "plain": _plain,
    "stripes": _stripes,
    "dots": _dots,
    "checks": _checks,
    "blotches": _blotches,
}
TEXTURES: tuple[str, ...] = tuple(PAINTERS)


def ink(rng: np.random.Generator, name: str, h: int, w: int, period: float) -> Ink:
    """Draw the ink of a texture on a canvas of h × w pixels.

    Args:
        rng: Random numbers.
        name: The texture.
        h: Rows.
        w: Columns.
        period: The repeat in pixels.
    """
    return PAINTERS[name](rng, h, w, period)
