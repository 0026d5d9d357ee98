"""A contact sheet: each picture with its masks (or boxes) outlined, and what it holds written below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seewhy.data.base import Item
from seewhy.data.scenes import CLASSES, Scene
from seewhy.viz.outlines import border, resized

# Okabe and Ito's colors for objects in order, told apart without red-green vision; a scene's mark gets white.
OUTLINES = ((230, 159, 0), (86, 180, 233), (240, 228, 66))
MARK_OUTLINE = (255, 255, 255)
_PAPER, _TEXT, _GAP, _LINE, _FONT, _LINES = (24, 24, 27), (228, 228, 231), 8, 15, 12, 4


def contact_sheet(
    items: Sequence[Item], columns: int = 4, scale: int = 2, side: int | None = None, names: Sequence[str] = ()
) -> Image.Image:
    """Lay the items out in rows.

    Args:
        scale: screen pixels per picture pixel, for pictures of one size.
        side: instead, the long side of every picture on the sheet.
        names: of the classes.
    """
    items = list(items)
    if not items:
        return Image.new("RGB", (_GAP, _GAP), _PAPER)
    columns = min(columns, len(items))
    cell = side or max(max(item.image.size) for item in items) * scale
    width, height = cell + _GAP, cell + _LINES * _LINE + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, -(-len(items) // columns) * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for i, item in enumerate(items):
        x, y = _GAP + i % columns * width, _GAP + i // columns * height
        picture = outlined(item, scale if side is None else side / max(item.image.size))
        sheet.paste(picture, (x, y))
        for line, (text, color) in enumerate(_caption(item, i, names)):
            pen.text((x, y + picture.height + 1 + line * _LINE), _fitting(text, font, cell), fill=color, font=font)
    return sheet


def outlined(item: Item, scale: float = 2) -> Image.Image:
    """The picture, enlarged without smoothing, with a line just inside the border of each mask, or on each box."""
    size = tuple(max(1, round(n * scale)) for n in item.image.size)
    large = scale >= 1
    picture = np.array(item.image.resize(size, Image.Resampling.NEAREST if large else Image.Resampling.BICUBIC))
    masks = [] if item.masks is None else list(item.masks)
    for i, mask in enumerate(masks):
        picture[border(resized(mask, size))] = OUTLINES[i % len(OUTLINES)]
    if isinstance(item, Scene):
        picture[border(resized(item.mark, size))] = MARK_OUTLINE
    drawn = Image.fromarray(picture)
    if not masks and item.boxes is not None:
        pen = ImageDraw.Draw(drawn)
        for i, (left, top, right, bottom) in enumerate(item.boxes * scale):
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=OUTLINES[i % len(OUTLINES)])
    return drawn


def _caption(item: Item, index: int, names: Sequence[str]) -> list[tuple[str, tuple[int, int, int]]]:
    lines = [(text, OUTLINES[i % len(OUTLINES)]) for i, text in enumerate(_objects(item, names))]
    if isinstance(item, Scene) and item.mark_class is not None:
        lines.append((f"mark of {CLASSES[item.mark_class]}", MARK_OUTLINE))
    if not isinstance(item, Scene):
        lines.insert(0, (item.id, _TEXT))
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [(f"… and {len(lines) - _LINES + 1} more", _TEXT)]
    return lines or [(f"{index}: nothing", _TEXT)]


def _objects(item: Item, names: Sequence[str]) -> list[str]:
    if isinstance(item, Scene):
        pairs = zip(item.class_names, item.texture_names, strict=True)
        return [f"{texture} {name}" for name, texture in pairs]
    return [names[label] if label < len(names) else f"class {label}" for label in item.labels]


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its end cut off where it would run into the next picture."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
