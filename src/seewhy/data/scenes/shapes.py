"""The twelve silhouettes of the synthetic world: the class of an object is its shape family.

A family draws polygons in unit coordinates (x right, y down, about [-1, 1]); every call varies the proportions a
little. Points are rounded to a supersampled integer grid before they are filled, so a last-bit difference between
two machines' sines cannot reach a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

SUPERSAMPLE = 4
Polygon = tuple[Float[ndarray, "_ 2"], bool]  # outline, and whether it adds (True) or cuts out (False)


@dataclass(frozen=True)
class Family:
    """One silhouette.

    Attributes:
        draw: Draws its polygons.
        turn: How far it may turn, in degrees, without looking like another.
        flips: Whether it may be mirrored.
    """

    draw: Callable[[np.random.Generator], list[Polygon]]
    turn: float
    flips: bool = False


def _arc(
    rx: float, ry: float, start: float = 0.0, stop: float = 1.0, cx: float = 0.0, cy: float = 0.0, n: int = 40
) -> Float[ndarray, "n 2"]:
    """Return points of an elliptic arc; `start` and `stop` are in turns, clockwise on the screen from 3 o'clock."""
    t = 2 * math.pi * np.linspace(start, stop, n)
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1)


def _points(*xy: tuple[float, float]) -> Float[ndarray, "n 2"]:
    return np.array(xy, dtype=np.float64)


def _ring(rng: np.random.Generator) -> list[Polygon]:
    flat, hole = rng.uniform(0.85, 1.0), rng.uniform(0.5, 0.62)
    return [(_arc(1, flat), True), (_arc(hole, hole * flat), False)]


def _triangle(rng: np.random.Generator) -> list[Polygon]:
    w = rng.uniform(0.85, 1.1)
    return [(_points((0, -1), (w, 0.75), (-w, 0.75)), True)]


def _square(rng: np.random.Generator) -> list[Polygon]:
    h = rng.uniform(0.82, 1.0)
    return [(_points((-1, -h), (1, -h), (1, h), (-1, h)), True)]


def _star(rng: np.random.Generator) -> list[Polygon]:
    r = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.38, 0.46))
    t = 2 * math.pi * np.arange(10) / 10
    return [(np.stack([r * np.sin(t), -r * np.cos(t)], 1), True)]


def _cross(rng: np.random.Generator) -> list[Polygon]:
    a, b = rng.uniform(0.27, 0.36), 1.0
    return [(_points((-b, -a), (b, -a), (b, a), (-b, a)), True), (_points((-a, -b), (a, -b), (a, b), (-a, b)), True)]


def _heart(rng: np.random.Generator) -> list[Polygon]:
    t = 2 * math.pi * np.arange(48) / 48
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [(np.stack([x * rng.uniform(0.9, 1.1), y], 1) / 17, True)]


def _crescent(rng: np.random.Generator) -> list[Polygon]:
    bite, shift = rng.uniform(0.76, 0.86), rng.uniform(0.46, 0.54)
    return [(_arc(1, 1), True), (_arc(bite, bite, cx=shift), False)]


def _arrow(rng: np.random.Generator) -> list[Polygon]:
    neck, a, w = rng.uniform(0.0, 0.2), rng.uniform(0.22, 0.3), rng.uniform(0.7, 0.85)
    return [(_points((1, 0), (neck, -w), (neck, -a), (-1, -a), (-1, a), (neck, a), (neck, w)), True)]


def _flower(rng: np.random.Generator) -> list[Polygon]:
    petals, depth = int(rng.integers(6, 8)), rng.uniform(0.19, 0.25)
    t = 2 * math.pi * np.arange(96) / 96
    r = 1 - depth + depth * np.cos(petals * t)
    return [(np.stack([r * np.cos(t), r * np.sin(t)], 1), True)]


def _fish(rng: np.random.Generator) -> list[Polygon]:
    fat, tail = rng.uniform(0.46, 0.56), rng.uniform(0.5, 0.62)
    tail_fin = _points((-0.2, 0), (-1, -tail), (-0.8, 0), (-1, tail))
    return [(_arc(0.68, fat, cx=0.32), True), (tail_fin, True)]


def _mushroom(rng: np.random.Generator) -> list[Polygon]:
    cap, a = rng.uniform(0.85, 1.0), rng.uniform(0.2, 0.28)
    stem = _points((-a, 0), (a, 0), (a * 1.15, 0.95), (-a * 1.15, 0.95))
    return [(_arc(1, cap, 0.5, 1.0, cy=0.12), True), (stem, True)]


def _hourglass(rng: np.random.Generator) -> list[Polygon]:
    w, neck = rng.uniform(0.72, 0.88), rng.uniform(0.06, 0.12)
    return [(_points((-w, -1), (w, -1), (neck, 0), (w, 1), (-w, 1), (-neck, 0)), True)]


FAMILIES: dict[str, Family] = {
    "ring": Family(_ring, 180),
    "triangle": Family(_triangle, 35),
    "square": Family(_square, 45),
    "star": Family(_star, 36),
    "cross": Family(_cross, 45),
    "heart": Family(_heart, 35),
    "crescent": Family(_crescent, 60, flips=True),
    "arrow": Family(_arrow, 35, flips=True),
    "flower": Family(_flower, 180),
    "fish": Family(_fish, 30, flips=True),
    "mushroom": Family(_mushroom, 30),
    "hourglass": Family(_hourglass, 30),
}
CLASSES: tuple[str, ...] = tuple(FAMILIES)


def _fill(polygons: list[Polygon], scale: float) -> Image.Image:
    """Fill the polygons at `scale` supersampled pixels per unit, on a canvas that just holds them."""
    points = [(np.rint(p * scale).astype(np.int64), adds) for p, adds in polygons]
    solid = np.concatenate([p for p, adds in points if adds])
    low = solid.min(0)
    width, height = (int(v) for v in -(-(solid.max(0) - low + 1) // SUPERSAMPLE) * SUPERSAMPLE)
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for outline, adds in points:
        pen.polygon([tuple(xy) for xy in (outline - low).tolist()], fill=255 if adds else 0)
    return canvas


def silhouette(rng: np.random.Generator, name: str, area: float) -> UInt8[ndarray, "h w"]:
    """Draw the coverage (0 to 255, antialiased) of one object, about `area` pixels large, tightly cropped."""
    family = FAMILIES[name]
    polygons = family.draw(rng)
    angle = math.radians(rng.uniform(-family.turn, family.turn))
    mirror = -1.0 if family.flips and rng.random() < 0.5 else 1.0
    c, s = math.cos(angle), math.sin(angle)
    # written out instead of `@`: a matrix product may be summed in another order on another machine
    turned = [
        (np.stack([c * mirror * p[:, 0] - s * p[:, 1], s * mirror * p[:, 0] + c * p[:, 1]], 1), adds)
        for p, adds in polygons
    ]
    probe = 24.0
    unit_area = np.count_nonzero(np.asarray(_fill(turned, probe))) / probe**2
    fine = _fill(turned, SUPERSAMPLE * math.sqrt(area / unit_area))
    return np.asarray(fine.reduce(SUPERSAMPLE))
