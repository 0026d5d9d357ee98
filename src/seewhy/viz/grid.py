"""Many maps in one figure: rows and columns with titles, captions and a legend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from PIL import Image, ImageDraw

from seewhy.errors import OptionError
from seewhy.explanation import Explanation
from seewhy.viz.colors import SIGNED_LEGEND, UNSIGNED_LEGEND, colorize
from seewhy.viz.overlay import CLIP_LEGEND, is_fine
from seewhy.viz.text import font, wrap

Cell = Explanation | Image.Image | None

PAPER, INK, QUIET, ALARM = "#ffffff", "#1a1a1a", "#555555", "#c00000"


@dataclass(frozen=True)
class _Sizes:
    """All lengths in pixels, in proportion to the cell."""

    cell: int

    @property
    def points(self) -> int:
        return max(10, self.cell // 15)

    @property
    def small(self) -> int:
        return max(9, self.cell // 18)

    @property
    def gap(self) -> int:
        return max(4, self.cell // 24)


def grid(
    rows: Sequence[Sequence[Cell]],
    row_titles: Sequence[str] | None = None,
    col_titles: Sequence[str] | None = None,
    title: str | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    cell: int = 240,
    alarm: Collection[int] = (),
) -> Image.Image:
    """One picture of all cells.

    Args:
        rows: explanations (drawn as overlays), pictures (drawn as they are, e.g. the photo first), or None (empty).
            Rows may differ in length.
        row_titles: one per row, left of it.
        col_titles: one per column, above it.
        title: above all.
        captions: under each cell, shaped as `rows`.
        cell: longest side of a cell in pixels.
        alarm: numbers of the rows whose titles and captions are red.

    Raises:
        OptionError: no cells, or titles and captions that do not fit the rows.
    """
    _check(rows, row_titles, col_titles, captions)
    sizes = _Sizes(cell)
    pictures = [[_picture(item, cell) for item in row] for row in rows]
    notes = captions or [[] for _ in rows]
    width = max((p.width for row in pictures for p in row if p), default=cell)
    left = _left_margin(row_titles, sizes)
    columns = max(len(row) for row in rows)
    total = left + columns * (width + sizes.gap) + sizes.gap
    bands = [_heading(title, total, sizes), _column_titles(col_titles, left, width, total, sizes)]
    for i, row in enumerate(pictures):
        inks = (ALARM, ALARM) if i in alarm else (INK, QUIET)
        bands.append(_row(row, notes[i], row_titles[i] if row_titles else "", left, width, total, sizes, inks))
    bands.append(_legend(rows, total, sizes))
    return _stack([band for band in bands if band], total, sizes.gap)


def explanation_grid(rows: Sequence[Sequence[Explanation]], title: str | None = None, cell: int = 240) -> Image.Image:
    """The photo, then methods as columns and targets as rows, titled from the explanations themselves.

    A method that knows no target shows the same map for each; it is drawn in the first row only. Where a method stands
    in several columns (heads, layers), each says which options are its own.
    """
    photos = [row[0].image for row in rows]
    drawn = [
        [explanation if i == 0 or explanation.target_title else None for explanation in row]
        for i, row in enumerate(rows)
    ]
    names = [next((e.target_title for e in row if e.target_title), "") for row in rows]
    return grid(
        [[photo if i == 0 else None, *row] for i, (photo, row) in enumerate(zip(photos, drawn, strict=True))],
        names if any(names) else None,
        ["photo", *distinct_titles(rows[0])],
        title,
        cell=cell,
    )


def distinct_titles(maps: Sequence[Explanation]) -> list[str]:
    """The titles of the methods; of those that are there several times, with the options in which they differ."""
    found = []
    for one in maps:
        options = [m.options for m in maps if m.method_title == one.method_title]
        own = [
            f"{name}={value}"
            for name, value in one.options.items()
            if value is not None and any(o.get(name) != value for o in options)
        ]
        found.append(f"{one.method_title} {', '.join(own)}".strip())
    return found


def _check(rows, row_titles, col_titles, captions) -> None:
    if not rows or not max(len(row) for row in rows):
        raise OptionError("a grid needs at least one cell; pass rows=[[explanation, ...], ...]")
    if row_titles is not None and len(row_titles) != len(rows):
        raise OptionError(f"{len(row_titles)} row titles for {len(rows)} rows; pass one for each")
    columns = max(len(row) for row in rows)
    if col_titles is not None and len(col_titles) != columns:
        raise OptionError(f"{len(col_titles)} column titles for {columns} columns; pass one for each")
    if captions is not None and [len(c) for c in captions] != [len(row) for row in rows]:
        raise OptionError("captions do not have the shape of the rows; pass one for each cell ('' for none)")


def _picture(item: Cell, cell: int) -> Image.Image | None:
    if item is None:
        return None
    source = item.image if isinstance(item, Explanation) else item
    if isinstance(item, Explanation):
        cols, rows = source.size if source is not None else (item.input_size or item.attribution.shape)[::-1]
        cols, rows = _fit(cols, rows, cell)
        return item.overlay(size=(rows, cols))  # drawn at its final size: a warning in it stays readable
    return item.convert("RGB").resize(_fit(*item.size, cell), Image.Resampling.LANCZOS)


def _fit(cols: int, rows: int, cell: int) -> tuple[int, int]:
    scale = cell / max(cols, rows)
    return max(1, round(cols * scale)), max(1, round(rows * scale))


# --- bands: each is a strip of the full width ------------------------------------------------------------------------


def _strip(total: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    strip = Image.new("RGB", (total, height), PAPER)
    return strip, ImageDraw.Draw(strip)


def _heading(title: str | None, total: int, sizes: _Sizes) -> Image.Image | None:
    if not title:
        return None
    points = round(sizes.points * 1.35)
    lines = wrap(title, total - 2 * sizes.gap, points, bold=True)
    strip, draw = _strip(total, round(len(lines) * points * 1.3))
    _lines(draw, lines, sizes.gap, 0, points, INK, bold=True)
    return strip


def _column_titles(
    titles: Sequence[str] | None, left: int, width: int, total: int, sizes: _Sizes
) -> Image.Image | None:
    if not titles:
        return None
    wrapped = [wrap(text, width, sizes.points, bold=True) for text in titles]
    depth = max(map(len, wrapped))
    strip, draw = _strip(total, round(depth * sizes.points * 1.3))
    for j, lines in enumerate(wrapped):
        top = (depth - len(lines)) * sizes.points * 1.3  # one-line titles stand next to their pictures, not above
        _lines(draw, lines, left + j * (width + sizes.gap) + width / 2, top, sizes.points, INK, bold=True, anchor="ma")
    return strip


def _row(
    row,
    notes: Sequence[str],
    title: str,
    left: int,
    width: int,
    total: int,
    sizes: _Sizes,
    inks: tuple[str, str] = (INK, QUIET),
) -> Image.Image:
    height = max((p.height for p in row if p), default=sizes.cell // 4)
    wrapped = [wrap(note, width, sizes.small, max_lines=4) for note in notes]
    strip, draw = _strip(total, height + round(max(map(len, wrapped), default=0) * sizes.small * 1.3 + sizes.gap / 2))
    lines = wrap(title, left - 2 * sizes.gap, sizes.points, bold=True, max_lines=6)
    _lines(draw, lines, sizes.gap, (height - len(lines) * sizes.points * 1.3) / 2, sizes.points, inks[0], bold=True)
    for j, (picture, note) in enumerate(zip_longest(row, wrapped, fillvalue=())):
        x = left + j * (width + sizes.gap)
        if picture:
            strip.paste(picture, (x + (width - picture.width) // 2, (height - picture.height) // 2))
        _lines(draw, note, x + width / 2, height + sizes.gap / 2, sizes.small, inks[1], anchor="ma")
    return strip


def _legend(rows: Sequence[Sequence[Cell]], total: int, sizes: _Sizes) -> Image.Image | None:
    """A color bar for each kind of map in the figure."""
    maps = [item for row in rows for item in row if isinstance(item, Explanation)]
    if not maps:
        return None
    entries = [(signed, SIGNED_LEGEND if signed else UNSIGNED_LEGEND) for signed in sorted({m.signed for m in maps})]
    if any(map(is_fine, maps)):
        entries[-1] = entries[-1][0], f"{entries[-1][1]} ({CLIP_LEGEND})"
    bar = (round(sizes.cell * 0.45), sizes.small)
    step = round(sizes.small * 1.7)
    left = 2 * sizes.gap + bar[0]
    texts = [wrap(text, total - left - sizes.gap, sizes.small) for _, text in entries]
    strip, draw = _strip(total, step * sum(map(len, texts)))
    y = 0
    for (signed, _), lines in zip(entries, texts, strict=True):
        strip.paste(_bar(signed, bar), (sizes.gap, y))
        for line in lines:
            draw.text((left, y + bar[1] / 2), line, fill=QUIET, font=font(sizes.small), anchor="lm")
            y += step
    return strip


def _bar(signed: bool, size: tuple[int, int]) -> Image.Image:
    values = np.linspace(-1 if signed else 0, 1, size[0], dtype=np.float32)
    return Image.fromarray(colorize(np.tile(values, (size[1], 1)), signed))


def _left_margin(titles: Sequence[str] | None, sizes: _Sizes) -> int:
    if not titles or not any(titles):
        return sizes.gap
    longest = max(font(sizes.points, True).getlength(text) for text in titles)
    return round(min(longest, sizes.cell * 0.6)) + 2 * sizes.gap + 1


def _lines(draw, lines: Sequence[str], x: float, y: float, points: int, fill: str, bold=False, anchor="la") -> None:
    for k, line in enumerate(lines):
        draw.text((x, y + k * points * 1.3), line, fill=fill, font=font(points, bold), anchor=anchor)


def _stack(bands: list[Image.Image], total: int, gap: int) -> Image.Image:
    sheet = Image.new("RGB", (total, sum(band.height + gap for band in bands) + gap), PAPER)
    y = gap
    for band in bands:
        sheet.paste(band, (0, y))
        y += band.height + gap
    return sheet
