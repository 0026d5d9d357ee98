"""Text in figures: one font that knows most alphabets (DejaVu Sans, which matplotlib brings along)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont


@cache
def font(points: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans at a size in pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), points)


def wrap_text(text: str, width: float, points: int, bold: bool = False, max_lines: int = 3) -> list[str]:
    """Break a text into lines of at most `width` pixels.

    Args:
        text: The text; words longer than a line (file names) are broken.
        width: In pixels.
        points: Size of the font.
        bold: Whether the bold font is used.
        max_lines: What exceeds so many lines becomes an ellipsis.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and _fits(f"{lines[-1]} {word}", width, points, bold):
            lines[-1] += f" {word}"
        else:
            lines += _break_word(word, width, points, bold)
    if len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1] + "…"
    while len(last) > 1 and not _fits(last, width, points, bold):
        last = last[:-2] + "…"
    return [*lines[: max_lines - 1], last]


def _break_word(word: str, width: float, points: int, bold: bool) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and not _fits(pieces[-1] + letter, width, points, bold):
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _fits(line: str, width: float, points: int, bold: bool) -> bool:
    return font(points, bold).getlength(line) <= width
