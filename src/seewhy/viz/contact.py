"""A contact sheet of made scenes: each picture with its masks outlined, and what it holds written below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from ..data.scenes import CLASSES, Scene

# Okabe and Ito's colours for objects in order, told apart without red-green vision; the mark gets white.
OUTLINES = ((230, 159, 0), (86, 180, 233), (240, 228, 66))
MARK_OUTLINE = (255, 255, 255)
_PAPER, _TEXT, _GAP, _LINE, _FONT = (24, 24, 27), (228, 228, 231), 8, 15, 12


def contact_sheet(scenes: Sequence[Scene], columns: int = 4, scale: int = 2) -> Image.Image:
    """Lay the scenes out in rows; `scale` is the whole number of screen pixels per picture pixel."""
    scenes = list(scenes)
    if not scenes:
        return Image.new("RGB", (_GAP, _GAP), _PAPER)
    columns = min(columns, len(scenes))
    side = scenes[0].image.width * scale
    width, height = side + _GAP, side + 4 * _LINE + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, -(-len(scenes) // columns) * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for i, scene in enumerate(scenes):
        x, y = _GAP + i % columns * width, _GAP + i // columns * height
        sheet.paste(outlined(scene, scale), (x, y))
        for line, (text, colour) in enumerate(_caption(scene, i)):
            pen.text((x, y + side + 1 + line * _LINE), text, fill=colour, font=font)
    return sheet


def outlined(scene: Scene, scale: int = 2) -> Image.Image:
    """The picture, enlarged without smoothing, with a line just inside the border of each mask."""
    side = scene.image.width * scale
    picture = np.array(scene.image.resize((side, side), Image.Resampling.NEAREST))
    for i, mask in enumerate(scene.masks):
        picture[_border(mask.repeat(scale, 0).repeat(scale, 1))] = OUTLINES[i % len(OUTLINES)]
    picture[_border(scene.mark.repeat(scale, 0).repeat(scale, 1))] = MARK_OUTLINE
    return Image.fromarray(picture)


def _border(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The mask's pixels with a 4-neighbour outside it; beyond the picture counts as outside."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _caption(scene: Scene, index: int) -> list[tuple[str, tuple[int, int, int]]]:
    names = zip(scene.class_names, scene.texture_names, strict=True)
    lines = [(f"{texture} {name}", OUTLINES[i % len(OUTLINES)]) for i, (name, texture) in enumerate(names)]
    if scene.mark_class is not None:
        lines.append((f"mark of {CLASSES[scene.mark_class]}", MARK_OUTLINE))
    return lines or [(f"{index}: nothing", _TEXT)]
