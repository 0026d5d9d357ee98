"""Many maps in one figure: rows and columns with titles, captions and a legend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from seewhy.core.colors import SIGNED_LEGEND, UNSIGNED_LEGEND, colorize
from seewhy.core.fonts import font, wrap_text
from seewhy.core.heatmap import CLIP_LEGEND, is_fine
from seewhy.errors import OptionError
from seewhy.explanation import Explanation

Cell: TypeAlias = Explanation | Image.Image | None
"""An explanation (drawn as overlay), an image (drawn as it is), or nothing."""

PAPER, INK, QUIET, ALARM = "#ffffff", "#1a1a1a", "#555555", "#c00000"
LEADING = 1.3  # distance of lines of text, in units of their size


@dataclass(frozen=True)
class _Layout:
    """Layout of a figure; lengths in pixels.

    Attributes:
        cell: The longest side of a cell.
        columns: How many columns there are.
        width: The width of a column.
        left: Where the first column begins; the row titles stand before it.
    """

    cell: int
    columns: int
    width: int
    left: int

    @property
    def points(self) -> int:
        """Size of titles."""
        return _points(self.cell)

    @property
    def small(self) -> int:
        """Size of captions and legend."""
        return max(9, self.cell // 18)

    @property
    def gap(self) -> int:
        """Space between columns, bands and around everything."""
        return _gap(self.cell)

    @property
    def total(self) -> int:
        """Width of the figure."""
        return self.left + self.columns * (self.width + self.gap) + self.gap

    def x(self, column: int) -> int:
        """Return the left edge of a column."""
        return self.left + column * (self.width + self.gap)


def grid(
    rows: Sequence[Sequence[Cell]],
    row_titles: Sequence[str] | None = None,
    col_titles: Sequence[str] | None = None,
    title: str | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    cell: int = 240,
    alarm: Collection[int] = (),
) -> Image.Image:
    """Draw all cells in one figure.

    Args:
        rows: Explanations (drawn as overlays), images (drawn as they are, e.g. the image first), or None (empty).
            Rows may differ in length.
        row_titles: One per row, left of it.
        col_titles: One per column, above it.
        title: Above all.
        captions: One under each cell, shaped as `rows`.
        cell: Longest side of a cell in pixels.
        alarm: Numbers of the rows whose titles and captions are red.

    Raises:
        OptionError: When there is no cell, or titles and captions do not fit the rows.
    """
    _check_shape(rows, row_titles, col_titles, captions)
    drawn = [[_draw_cell(item, cell) for item in row] for row in rows]
    widths = [image.width for row in drawn for image in row if image]
    layout = _Layout(
        cell=cell,
        columns=max(len(row) for row in rows),
        width=max(widths, default=cell),
        left=_left_margin(row_titles, cell),
    )
    bands = [_heading(title, layout), _column_titles(col_titles, layout)]
    for i, row in enumerate(drawn):
        inks = (ALARM, ALARM) if i in alarm else (INK, QUIET)
        bands.append(_row(row, captions[i] if captions else [], row_titles[i] if row_titles else "", layout, inks))
    bands.append(_legend(rows, layout))
    return _stack([band for band in bands if band], layout)


def explanation_grid(rows: Sequence[Sequence[Explanation]], title: str | None = None, cell: int = 240) -> Image.Image:
    """Draw the image, then methods as columns and targets as rows, titled from the explanations themselves.

    A method without a target shows the same map for each; it is drawn in the first row only. Where a method stands in
    several columns (heads, layers), each is titled with the options in which it differs.

    Args:
        rows: One row for each target, one column for each method, as `seewhy.compare` returns them.
        title: Above all.
        cell: Longest side of a cell in pixels.
    """
    cells: list[list[Cell]] = []
    for i, row in enumerate(rows):
        shown = [explanation if i == 0 or explanation.target_title else None for explanation in row]
        cells.append([row[0].image if i == 0 else None, *shown])
    names = [next((e.target_title for e in row if e.target_title), "") for row in rows]
    columns = ["image", *distinct_titles(rows[0])]
    return grid(cells, names if any(names) else None, columns, title, cell=cell)


def distinct_titles(maps: Sequence[Explanation]) -> list[str]:
    """Return the titles of the methods; those that occur several times, with the options in which they differ."""
    titles = []
    for one in maps:
        namesakes = [other.options for other in maps if other.method_title == one.method_title]
        differing = [
            f"{name}={value}"
            for name, value in one.options.items()
            if value is not None and any(options.get(name) != value for options in namesakes)
        ]
        titles.append(f"{one.method_title} {', '.join(differing)}".strip())
    return titles


def _check_shape(
    rows: Sequence[Sequence[Cell]],
    row_titles: Sequence[str] | None,
    col_titles: Sequence[str] | None,
    captions: Sequence[Sequence[str]] | None,
) -> None:
    if not rows or not max(len(row) for row in rows):
        raise OptionError("a grid needs at least one cell; pass rows=[[explanation, ...], ...]")
    if row_titles is not None and len(row_titles) != len(rows):
        raise OptionError(f"got {len(row_titles)} row titles for {len(rows)} rows; pass one for each")
    columns = max(len(row) for row in rows)
    if col_titles is not None and len(col_titles) != columns:
        raise OptionError(f"got {len(col_titles)} column titles for {columns} columns; pass one for each")
    if captions is not None and [len(c) for c in captions] != [len(row) for row in rows]:
        raise OptionError("captions do not have the shape of the rows; pass one for each cell ('' for none)")


def _draw_cell(item: Cell, cell: int) -> Image.Image | None:
    if item is None:
        return None
    if isinstance(item, Image.Image):
        return item.convert("RGB").resize(_fit(*item.size, cell), Image.Resampling.LANCZOS)
    if item.image is not None:
        cols, rows = item.image.size
    else:
        rows, cols = item.input_size or item.attribution.shape
    cols, rows = _fit(cols, rows, cell)
    return item.overlay(size=(rows, cols))  # drawn at its final size: a warning in it stays readable


def _fit(cols: int, rows: int, cell: int) -> tuple[int, int]:
    scale = cell / max(cols, rows)
    return max(1, round(cols * scale)), max(1, round(rows * scale))


def _points(cell: int) -> int:
    return max(10, cell // 15)


def _gap(cell: int) -> int:
    return max(4, cell // 24)


def _left_margin(titles: Sequence[str] | None, cell: int) -> int:
    """Room for the row titles, which are wrapped at 60 % of a cell."""
    if not titles or not any(titles):
        return _gap(cell)
    longest = max(font(_points(cell), True).getlength(text) for text in titles)
    return round(min(longest, cell * 0.6)) + 2 * _gap(cell) + 1


# --- bands: each is a strip of the full width ------------------------------------------------------------------------


def _strip(layout: _Layout, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    strip = Image.new("RGB", (layout.total, height), PAPER)
    return strip, ImageDraw.Draw(strip)


def _heading(title: str | None, layout: _Layout) -> Image.Image | None:
    if not title:
        return None
    points = round(layout.points * 1.35)
    lines = wrap_text(title, layout.total - 2 * layout.gap, points, bold=True)
    strip, draw = _strip(layout, round(len(lines) * points * LEADING))
    _write_lines(draw, lines, layout.gap, 0, points, INK, bold=True)
    return strip


def _column_titles(titles: Sequence[str] | None, layout: _Layout) -> Image.Image | None:
    if not titles:
        return None
    wrapped = [wrap_text(text, layout.width, layout.points, bold=True) for text in titles]
    depth = max(map(len, wrapped))
    strip, draw = _strip(layout, round(depth * layout.points * LEADING))
    for j, lines in enumerate(wrapped):
        top = (depth - len(lines)) * layout.points * LEADING  # one-line titles stand next to their cells, not above
        _write_lines(draw, lines, layout.x(j) + layout.width / 2, top, layout.points, INK, bold=True, anchor="ma")
    return strip


def _row(
    cells: Sequence[Image.Image | None], captions: Sequence[str], title: str, layout: _Layout, inks: tuple[str, str]
) -> Image.Image:
    """Draw a row: its title left, the cells, the captions under them; `inks` are those of title and captions."""
    height = max((image.height for image in cells if image), default=layout.cell // 4)
    notes = [wrap_text(caption, layout.width, layout.small, max_lines=4) for caption in captions]
    depth = max(map(len, notes), default=0)
    strip, draw = _strip(layout, height + round(depth * layout.small * LEADING + layout.gap / 2))
    lines = wrap_text(title, layout.left - 2 * layout.gap, layout.points, bold=True, max_lines=6)
    top = (height - len(lines) * layout.points * LEADING) / 2
    _write_lines(draw, lines, layout.gap, top, layout.points, inks[0], bold=True)
    for j, image in enumerate(cells):
        if image:
            strip.paste(image, (layout.x(j) + (layout.width - image.width) // 2, (height - image.height) // 2))
    for j, note in enumerate(notes):
        middle = layout.x(j) + layout.width / 2
        _write_lines(draw, note, middle, height + layout.gap / 2, layout.small, inks[1], anchor="ma")
    return strip


def _legend(rows: Sequence[Sequence[Cell]], layout: _Layout) -> Image.Image | None:
    """Draw a color bar for each kind of map in the figure."""
    maps = [item for row in rows for item in row if isinstance(item, Explanation)]
    if not maps:
        return None
    entries = [(signed, SIGNED_LEGEND if signed else UNSIGNED_LEGEND) for signed in sorted({m.signed for m in maps})]
    if any(map(is_fine, maps)):
        signed, text = entries[-1]
        entries[-1] = signed, f"{text} ({CLIP_LEGEND})"
    bar = (round(layout.cell * 0.45), layout.small)
    step = round(layout.small * 1.7)
    left = 2 * layout.gap + bar[0]
    texts = [wrap_text(text, layout.total - left - layout.gap, layout.small) for _, text in entries]
    strip, draw = _strip(layout, step * sum(map(len, texts)))
    y = 0
    for (signed, _), lines in zip(entries, texts, strict=True):
        strip.paste(_color_bar(signed, bar), (layout.gap, y))
        for line in lines:
            draw.text((left, y + bar[1] / 2), line, fill=QUIET, font=font(layout.small), anchor="lm")
            y += step
    return strip


def _color_bar(signed: bool, size: tuple[int, int]) -> Image.Image:
    values = np.linspace(-1 if signed else 0, 1, size[0], dtype=np.float32)
    return Image.fromarray(colorize(np.tile(values, (size[1], 1)), signed))


def _write_lines(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    x: float,
    y: float,
    points: int,
    fill: str,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    for k, line in enumerate(lines):
        draw.text((x, y + k * points * LEADING), line, fill=fill, font=font(points, bold), anchor=anchor)


def _stack(bands: Sequence[Image.Image], layout: _Layout) -> Image.Image:
    gap = layout.gap
    sheet = Image.new("RGB", (layout.total, sum(band.height + gap for band in bands) + gap), PAPER)
    y = gap
    for band in bands:
        sheet.paste(band, (0, y))
        y += band.height + gap
    return sheet
