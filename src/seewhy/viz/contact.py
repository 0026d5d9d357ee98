"""A contact sheet: each image with its masks (or boxes) outlined, and what it holds written below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seewhy.data.base import Sample
from seewhy.data.scenes import CLASSES, Scene
from seewhy.viz.outlines import inner_border, resize_mask

Color: TypeAlias = tuple[int, int, int]

# Okabe and Ito's colors for objects in order, told apart without red-green vision; a scene's mark gets white.
OUTLINES: tuple[Color, ...] = ((230, 159, 0), (86, 180, 233), (240, 228, 66))
MARK_OUTLINE: Color = (255, 255, 255)
_PAPER: Color = (24, 24, 27)
_TEXT: Color = (228, 228, 231)
_GAP = 8  # between images, in pixels
_LINE = 15  # height of a line of text
_FONT = 12
_LINES = 4  # of text below an image, at most


def contact_sheet(
    samples: Sequence[Sample], columns: int = 4, scale: int = 2, side: int | None = None, names: Sequence[str] = ()
) -> Image.Image:
    """Lay samples out in rows.

    Args:
        samples: Elements of a dataset.
        columns: Images in each row.
        scale: Screen pixels per image pixel, for images of one size.
        side: Instead, the long side of every image on the sheet.
        names: Names of the classes.
    """
    samples = list(samples)
    if not samples:
        return Image.new("RGB", (_GAP, _GAP), _PAPER)
    columns = min(columns, len(samples))
    cell = side or max(max(sample.image.size) for sample in samples) * scale
    width, height = cell + _GAP, cell + _LINES * _LINE + _GAP
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for i, sample in enumerate(samples):
        row, column = divmod(i, columns)
        x, y = _GAP + column * width, _GAP + row * height
        image = outline_sample(sample, scale if side is None else side / max(sample.image.size))
        sheet.paste(image, (x, y))
        for line, (text, color) in enumerate(_caption(sample, i, names)):
            top = y + image.height + 1 + line * _LINE
            pen.text((x, top), _shorten(text, font, cell), fill=color, font=font)
    return sheet


def outline_sample(sample: Sample, scale: float = 2) -> Image.Image:
    """Draw a line just inside the border of each mask, or on each box, of the image.

    Args:
        sample: An element of a dataset.
        scale: Pixels of the result per pixel of the image, enlarged without smoothing.
    """
    width, height = sample.image.size
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BICUBIC
    pixels = np.array(sample.image.resize(size, resampling))
    masks = [] if sample.masks is None else list(sample.masks)
    for i, mask in enumerate(masks):
        pixels[inner_border(resize_mask(mask, size))] = OUTLINES[i % len(OUTLINES)]
    if isinstance(sample, Scene):
        pixels[inner_border(resize_mask(sample.mark, size))] = MARK_OUTLINE
    image = Image.fromarray(pixels)
    if not masks and sample.boxes is not None:
        pen = ImageDraw.Draw(image)
        for i, (left, top, right, bottom) in enumerate((sample.boxes * scale).tolist()):
            corners = (left, top, max(left, right - 1), max(top, bottom - 1))
            pen.rectangle(corners, outline=OUTLINES[i % len(OUTLINES)])
    return image


def _caption(sample: Sample, index: int, names: Sequence[str]) -> list[tuple[str, Color]]:
    lines = [(text, OUTLINES[i % len(OUTLINES)]) for i, text in enumerate(_object_names(sample, names))]
    if isinstance(sample, Scene):
        if sample.mark_class is not None:
            lines.append((f"mark of {CLASSES[sample.mark_class]}", MARK_OUTLINE))
    else:
        lines.insert(0, (sample.id, _TEXT))
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [(f"… and {len(lines) - _LINES + 1} more", _TEXT)]
    return lines or [(f"{index}: nothing", _TEXT)]


def _object_names(sample: Sample, names: Sequence[str]) -> list[str]:
    if isinstance(sample, Scene):
        pairs = zip(sample.class_names, sample.texture_names, strict=True)
        return [f"{texture} {name}" for name, texture in pairs]
    return [names[label] if label < len(names) else f"class {label}" for label in sample.labels]


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut off the end of a text where it would run into the next image."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
