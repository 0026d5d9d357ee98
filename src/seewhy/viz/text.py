"""Text on pictures: one font that knows most alphabets (DejaVu Sans, which matplotlib brings along)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont


@cache
def font(points: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans at a size in pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), points)


def wrap(text: str, width: float, points: int, bold: bool = False, max_lines: int = 3) -> list[str]:
    """Lines of at most `width` pixels; longer words (file names) are broken, what is too much becomes an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and _fits(f"{lines[-1]} {word}", width, points, bold):
            lines[-1] += f" {word}"
        else:
            lines += _broken(word, width, points, bold)
    if len(lines) > max_lines:
        last = lines[max_lines - 1] + "…"
        while len(last) > 1 and not _fits(last, width, points, bold):
            last = last[:-2] + "…"
        lines = [*lines[: max_lines - 1], last]
    return lines


def _broken(word: str, width: float, points: int, bold: bool) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and not _fits(pieces[-1] + letter, width, points, bold):
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _fits(line: str, width: float, points: int, bold: bool) -> bool:
    return font(points, bold).getlength(line) <= width
