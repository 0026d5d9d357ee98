"""Put objects, occluders and marks on a ground, and keep the exact mask of what stays visible of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFilter

from . import backgrounds, shapes, textures

SMALLEST, LARGEST = 0.05, 0.35  # visible share of the image that one object may take
_DRAWN = {1: (0.07, 0.32), 2: (0.065, 0.19), 3: (0.06, 0.12)}  # share drawn, by number of objects
_HIDDEN = 0.15  # an object or stick in front may hide this share of an object
_TRIES = 60

# Twelve two-colored badges, as many as there are classes: ordered pairs of four colors.
_MARK_COLORS = ((225, 40, 40), (40, 190, 60), (50, 80, 230), (240, 210, 40))
MARKS = tuple((a, b) for a in _MARK_COLORS for b in _MARK_COLORS if a != b)


@dataclass(frozen=True)
class ScenePlan:
    """Content of a scene.

    Attributes:
        classes: The class of each object.
        textures: The texture of each object.
        mark_class: The class whose mark is in a corner; None without a mark.
        concept: The texture that the sample asks about.
    """

    classes: tuple[int, ...] = ()
    textures: tuple[int, ...] = ()
    mark_class: int | None = None
    concept: int | None = None


@dataclass
class Canvas:
    """A scene under construction.

    Attributes:
        image: What is drawn so far, 0 to 255.
        masks: What is visible of each object.
    """

    image: backgrounds.ImageArray
    masks: list[Bool[ndarray, "h w"]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The side in pixels."""
        return self.image.shape[0]

    def cover(self, mask: Bool[ndarray, "h w"]) -> None:
        """Hide the objects behind what is drawn on `mask`."""
        self.masks = [m & ~mask for m in self.masks]

    def hides_too_much(self, mask: Bool[ndarray, "h w"], share: float = _HIDDEN) -> bool:
        """Tell whether something drawn on `mask` would hide more than a share of any object."""
        return any(np.count_nonzero(m & mask) > share * np.count_nonzero(m) for m in self.masks)


def compose(
    rng: np.random.Generator, plan: ScenePlan, size: int
) -> tuple[Image.Image, Bool[ndarray, "k h w"], Bool[ndarray, "h w"]]:
    """Draw a plan.

    A drawing in which an object ends up too small, too large or too hidden is thrown away and drawn again with the
    generator's next numbers, so the result is still a function of the seed alone.

    Args:
        rng: The sample's random numbers.
        plan: What it holds.
        size: Its side in pixels.

    Returns:
        The image, the visible mask of each object, and the mask of the corner mark.
    """
    while True:
        canvas = Canvas(backgrounds.ground(rng, size).astype(np.float64))
        placed = all(
            _place(rng, canvas, c, t, len(plan.classes)) for c, t in zip(plan.classes, plan.textures, strict=True)
        )
        if not placed:
            continue
        if plan.classes and rng.random() < 0.25:
            _stick(rng, canvas)
        mark = np.zeros((size, size), dtype=bool)
        if plan.mark_class is not None:
            mark = _mark(rng, canvas, plan.mark_class)
        shares = [np.count_nonzero(m) / size**2 for m in canvas.masks]
        if all(SMALLEST <= share <= LARGEST for share in shares):
            break
    image = backgrounds.camera(rng, backgrounds.light(rng, canvas.image))
    masks = np.stack(canvas.masks) if canvas.masks else np.zeros((0, size, size), dtype=bool)
    return Image.fromarray(image), masks, mark


def _place(rng: np.random.Generator, canvas: Canvas, class_index: int, texture: int, crowd: int) -> bool:
    """Draw one object where it hides little of the others; False when there is no room."""
    size, (low, high) = canvas.size, _DRAWN[crowd]
    share = low * (high / low) ** rng.random()
    cover = shapes.silhouette(rng, shapes.CLASSES[class_index], share * size**2)
    h, w = cover.shape
    if h >= size or w >= size:
        return False
    tolerated = _HIDDEN if rng.random() < 0.4 else 0.0
    for _ in range(_TRIES):
        top, left = int(rng.integers(0, size - h + 1)), int(rng.integers(0, size - w + 1))
        alpha = np.zeros((size, size), dtype=np.uint8)
        alpha[top : top + h, left : left + w] = cover
        mask = alpha >= 128
        if not canvas.hides_too_much(mask, tolerated):
            _paint(rng, canvas, alpha, (top, left, h, w), texture)
            canvas.cover(mask)
            canvas.masks.append(mask)
            return True
    return False


def _paint(
    rng: np.random.Generator, canvas: Canvas, alpha: UInt8[ndarray, "h w"], box: tuple[int, int, int, int], texture: int
) -> None:
    """Mix the object's two colors by its texture, shade it, cast its shadow, and lay it over the image."""
    top, left, h, w = box
    here = (slice(top, top + h), slice(left, left + w))
    base, ink = _colors(rng, canvas.image[here])
    period = min(rng.uniform(0.065, 0.095) * canvas.size, math.sqrt(h * w) / 3)
    amount = textures.ink(rng, textures.TEXTURES[texture], h, w, period)[..., None]
    surface = base * (1 - amount) + ink * amount
    surface = surface * (1 + rng.uniform(0, 0.22) * backgrounds.slope(rng, max(h, w))[:h, :w, None])
    if rng.random() < 0.6:
        _shadow(rng, canvas, alpha)
    a = (alpha[here].astype(np.float64) / 255)[..., None]
    canvas.image[here] = canvas.image[here] * (1 - a) + surface * a


def _colors(rng: np.random.Generator, behind: backgrounds.ImageArray) -> tuple[backgrounds.Rgb, backgrounds.Rgb]:
    """Two colors far from each other in brightness; the first is also far from what lies behind the object."""
    around = np.floor(behind).sum((0, 1)) / (behind.shape[0] * behind.shape[1])  # whole numbers: an exact sum
    while True:
        base, ink = (backgrounds.color(rng, (0.1, 0.95), (0.2, 1.0)) for _ in range(2))
        apart = abs(float(base[0] - ink[0]) * 0.3 + float(base[1] - ink[1]) * 0.59 + float(base[2] - ink[2]) * 0.11)
        if apart > 70 and min(np.abs(c - around).max() for c in (base, ink)) > 60:
            return base, ink


def _shadow(rng: np.random.Generator, canvas: Canvas, alpha: UInt8[ndarray, "h w"]) -> None:
    reach = canvas.size / 96
    dx, dy = (round(float(v)) for v in rng.uniform(1, 4, 2) * reach)
    shifted = np.zeros_like(alpha)
    shifted[dy:, dx:] = alpha[: alpha.shape[0] - dy, : alpha.shape[1] - dx]
    soft = np.asarray(Image.fromarray(shifted).filter(ImageFilter.GaussianBlur(2.5 * reach)), dtype=np.float64)
    canvas.image *= 1 - rng.uniform(0.15, 0.5) / 255 * soft[..., None]


def _stick(rng: np.random.Generator, canvas: Canvas) -> None:
    """Lay a thin bar across one object, unless it would hide too much of any."""
    target = canvas.masks[int(rng.integers(len(canvas.masks)))]
    ys, xs = np.nonzero(target)
    i = int(rng.integers(len(ys)))
    angle, reach = rng.uniform(0, math.pi), rng.uniform(0.15, 0.4) * canvas.size
    dx, dy = round(reach * math.cos(angle)), round(reach * math.sin(angle))
    bar = Image.new("L", (canvas.size, canvas.size))
    ends = (int(xs[i]) - dx, int(ys[i]) - dy, int(xs[i]) + dx, int(ys[i]) + dy)
    ImageDraw.Draw(bar).line(ends, fill=255, width=max(2, round(rng.uniform(0.02, 0.05) * canvas.size)))
    mask = np.asarray(bar) > 0
    tint = backgrounds.color(rng, (0.05, 0.6), (0.2, 0.9))
    if not canvas.hides_too_much(mask):
        canvas.image[mask] = tint
        canvas.cover(mask)


def _mark(rng: np.random.Generator, canvas: Canvas, class_index: int) -> Bool[ndarray, "h w"]:
    """Put the class's badge (two colors side by side in a white frame) in a random corner."""
    side, margin = canvas.size // 8, max(1, canvas.size // 48)
    low, high = margin, canvas.size - margin - side
    top, left = (low, high)[int(rng.integers(2))], (low, high)[int(rng.integers(2))]
    mark = np.zeros((canvas.size, canvas.size), dtype=bool)
    mark[top : top + side, left : left + side] = True
    canvas.image[mark] = 245.0
    first, second = MARKS[class_index]
    inner, rim = side // 2, max(1, side // 12)
    canvas.image[top + rim : top + side - rim, left + rim : left + inner] = first
    canvas.image[top + rim : top + side - rim, left + inner : left + side - rim] = second
    canvas.cover(mark)
    return mark
