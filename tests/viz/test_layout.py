"""Where the parts of a figure lie: cells, titles, captions and legend, measured in the drawn pixels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from seewhy.core.colors import color_table
from seewhy.core.heatmap import overlay
from seewhy.explanation import Explanation
from seewhy.viz.figures import PAPER, grid

CELL = 120  # gap 5, titles of 10 points, captions and legend of 9
GAP, SMALL = 5, 9
RED, GREEN, BLUE, GOLD = "#ff0000", "#00ff00", "#0000ff", "#ffcc00"


class Area(NamedTuple):
    """Columns `left` ≤ x < `right`, rows `top` ≤ y < `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


def area_of(mask: np.ndarray, left: int = 0, top: int = 0) -> Area:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert len(rows), "nothing there"
    return Area(left + cols[0], top + rows[0], left + cols[-1] + 1, top + rows[-1] + 1)


def cell_area(figure: Image.Image, color: str) -> Area:
    return area_of((np.asarray(figure) == ImageColor.getrgb(color)).all(-1))


def ink(figure: Image.Image, left: int = 0, top: int = 0, right: int | None = None, bottom: int | None = None) -> Area:
    """What is not paper in a part of the figure."""
    part = np.asarray(figure)[top:bottom, left:right]
    return area_of((part != ImageColor.getrgb(PAPER)).any(-1), left, top)


def plain(color: str, width: int = CELL, height: int = CELL) -> Image.Image:
    return Image.new("RGB", (width, height), color)


def explanation(signed: bool = False, side: int = 2) -> Explanation:
    values = torch.linspace(-1, 1, side * side).view(side, side)
    return Explanation(values, "toy", image=plain("#808080"), signed=signed)


def test_cells_stand_in_rows_and_columns_with_equal_gaps():
    figure = grid([[plain(RED), plain(GREEN)], [plain(BLUE), plain(GOLD)]], cell=CELL)
    red, green, blue, gold = (cell_area(figure, color) for color in (RED, GREEN, BLUE, GOLD))
    assert red == (GAP, GAP, GAP + CELL, GAP + CELL)
    assert green == (red.right + GAP, red.top, red.right + GAP + CELL, red.bottom)
    assert (blue.left, blue.right, gold.left) == (red.left, red.right, green.left)
    assert (blue.top, gold.top) == (gold.top, blue.top)
    assert blue.top - red.bottom == GAP + round(GAP / 2)  # the room for captions is there, if small
    assert figure.width == green.right + 2 * GAP


def test_smaller_cells_stand_in_the_middle_of_their_place():
    figure = grid([[plain(RED), plain(GREEN, 40, 20), plain(BLUE, 20, 60)]], cell=CELL)
    red, wide, tall = (cell_area(figure, color) for color in (RED, GREEN, BLUE))
    assert (wide.right - wide.left, wide.bottom - wide.top) == (CELL, CELL // 2)
    assert (tall.right - tall.left, tall.bottom - tall.top) == (CELL // 3, CELL)
    assert wide.middle[1] == red.middle[1]
    assert tall.middle[0] == red.middle[0] + 2 * (CELL + GAP)


def test_an_empty_cell_keeps_its_place():
    figure = grid([[plain(RED), plain(GREEN)], [None, plain(BLUE)]], cell=CELL)
    assert cell_area(figure, BLUE).left == cell_area(figure, GREEN).left
    assert grid([[None]], cell=CELL).height < CELL / 2


@pytest.mark.parametrize("first_is_longer", [True, False])
def test_rows_may_differ_in_length(first_is_longer):
    rows = [[plain(RED), plain(GREEN)], [plain(BLUE)]]
    figure = grid(rows if first_is_longer else rows[::-1], col_titles=["x", "y"], cell=CELL)
    assert cell_area(figure, GREEN).right == figure.width - 2 * GAP
    assert cell_area(figure, BLUE).left == cell_area(figure, RED).left
    assert cell_area(grid([[], [plain(RED)]], cell=CELL), RED).right == GAP + CELL


def test_titles_take_the_height_of_their_lines():
    """Titles of 10 points, the heading of 14, lines 1.3 times as high."""
    plain_height = grid([[plain(RED)]], cell=CELL).height
    heights = [
        grid([[plain(RED)]], title=title, col_titles=columns, cell=CELL).height - plain_height
        for title, columns in ((None, ["x"]), (None, ["xxxxxxxxxx xxxxxxxxxx"]), ("x", None), ("xxxxxxx xxxxxxx", None))
    ]
    assert heights == [13 + GAP, 26 + GAP, 18 + GAP, 36 + GAP]


def test_the_title_stands_at_the_top_left_and_moves_everything_down():
    without, figure = (grid([[plain(RED), plain(GREEN)]], title=title, cell=CELL) for title in (None, "Title"))
    red = cell_area(figure, RED)
    title = ink(figure, bottom=red.top)
    assert GAP <= title.left <= GAP + 2
    assert GAP <= title.top < title.bottom <= red.top - GAP
    assert figure.height - without.height == red.top - cell_area(without, RED).top > 10
    letters = grid([[plain(RED)]], title="H", col_titles=["H"], cell=CELL)
    rows = np.flatnonzero((np.asarray(letters)[: cell_area(letters, RED).top] < 128).all(-1).any(1))
    heights = [len(lines) for lines in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)]
    assert heights[0] > 1.2 * heights[1]  # of the title and of a column's title
    two_lines = grid([[plain(RED), plain(GREEN)]], title="word " * 12, cell=CELL)
    assert ink(two_lines, bottom=cell_area(two_lines, RED).top).right <= two_lines.width - GAP


def test_column_titles_stand_over_the_middle_of_their_columns_next_to_the_cells():
    figure = grid([[plain(RED), plain(GREEN)]], col_titles=["xx", "a title of more than one line"], cell=CELL)
    red, green = cell_area(figure, RED), cell_area(figure, GREEN)
    short = ink(figure, red.left, 0, red.right, red.top)
    long = ink(figure, green.left, 0, green.right, green.top)
    assert short.middle[0] == pytest.approx(red.middle[0], abs=1)
    assert long.middle[0] == pytest.approx(green.middle[0], abs=2)
    assert short.top > long.top  # one line stands beside the last of two
    same_letters = grid([[plain(RED), plain(GREEN)]], col_titles=["xx", "xxxxxxxxxxxx xxxxxxxxxxx"], cell=CELL)
    last_line, second_line = (ink(same_letters, c.left, 0, c.right, c.top) for c in (red, green))
    assert last_line.bottom == second_line.bottom
    assert second_line.top < last_line.top
    assert short.bottom <= red.top - GAP
    assert red.top - short.bottom < 13  # within a line


def test_row_titles_stand_left_of_the_middle_of_their_rows():
    figure = grid([[plain(RED)], [plain(GREEN)]], row_titles=["one", "a title that needs several lines"], cell=CELL)
    for color in (RED, GREEN):
        cell = cell_area(figure, color)
        title = ink(figure, 0, cell.top, cell.left, cell.bottom)
        assert GAP <= title.left <= GAP + 2
        assert title.right <= cell.left - GAP
        assert title.middle[1] == pytest.approx(cell.middle[1], abs=3)
    tall = grid([[plain(RED)]], row_titles=["xxxxxxxx " * 6], cell=CELL)
    cell = cell_area(tall, RED)
    assert ink(tall, 0, cell.top, cell.left, cell.bottom).middle[1] == pytest.approx(cell.middle[1], abs=3)
    widest = 0.6 * CELL + 2 * GAP + 1  # longer titles are wrapped
    assert cell_area(figure, RED).left == round(widest)
    assert grid([[plain(RED)]], row_titles=[""], cell=CELL).size == grid([[plain(RED)]], cell=CELL).size


def test_captions_stand_under_the_middle_of_their_cells():
    figure = grid([[plain(RED), plain(GREEN)]], captions=[["xx", "a caption of more than one line"]], cell=CELL)
    red, green = cell_area(figure, RED), cell_area(figure, GREEN)
    short = ink(figure, red.left, red.bottom, red.right)
    long = ink(figure, green.left, green.bottom, green.right)
    assert short.middle[0] == pytest.approx(red.middle[0], abs=1)
    assert long.middle[0] == pytest.approx(green.middle[0], abs=2)
    assert GAP / 2 <= short.top - red.bottom < GAP / 2 + SMALL
    assert long.bottom > short.bottom
    assert figure.height - long.bottom >= GAP


def test_a_long_caption_ends_within_its_column_and_its_four_lines():
    figure = grid([[plain(RED), plain(GREEN)]], captions=[["word " * 60, ""]], cell=CELL)
    red = cell_area(figure, RED)
    caption = ink(figure, 0, red.bottom)
    assert red.left <= caption.left < caption.right <= red.right
    assert caption.bottom - caption.top <= 4 * 1.3 * SMALL


def test_rows_of_the_alarm_and_only_those_are_red():
    cells = [[plain(BLUE)], [plain(GREEN)]]
    figure = grid(cells, row_titles=["one", "two"], captions=[["c"], ["d"]], alarm=[1], cell=CELL)
    pixels = np.asarray(figure).astype(int)
    red = (pixels[..., 0] > pixels[..., 1] + 60) & (pixels[..., 0] > pixels[..., 2] + 60)
    dark = (pixels.max(-1) < 150) & (np.ptp(pixels, axis=-1) == 0)
    blue, green = cell_area(figure, BLUE), cell_area(figure, GREEN)
    assert area_of(red).top >= green.top
    assert area_of(red).bottom > green.bottom  # the caption, too
    assert area_of(dark).top >= blue.top
    assert blue.bottom < area_of(dark).bottom < green.top  # the caption, too


def bars(figure: Image.Image, signed: bool) -> Area:
    """The color bar: the place of the first and of the last color of its table."""
    pixels, table = np.asarray(figure), color_table(signed)
    ends = (pixels == table[0]).all(-1) | (pixels == table[-1]).all(-1)
    return area_of(ends[-100:, : CELL // 2 + GAP], top=figure.height - 100)


def test_the_legend_has_a_bar_and_its_words_beside_it_for_each_kind_of_map():
    figure = grid([[explanation(signed=False), explanation(signed=True)]], cell=CELL)
    unsigned, signed = bars(figure, False), bars(figure, True)
    assert (unsigned.left, unsigned.right) == (GAP, GAP + round(0.45 * CELL))
    assert unsigned.bottom - unsigned.top == SMALL
    assert signed.left == unsigned.left
    assert signed.top - unsigned.top == round(1.7 * SMALL)  # one line of words each
    assert figure.height - signed.bottom >= GAP
    for bar in (unsigned, signed):
        words = ink(figure, bar.right + 1, bar.top - 2, None, bar.bottom + 3)
        assert bar.right + GAP <= words.left <= bar.right + GAP + 2
        assert words.middle[1] == pytest.approx(bar.middle[1], abs=1.5)
    table = color_table(False)
    row = np.asarray(figure)[unsigned.top, unsigned.left : unsigned.right]
    assert (row[0] == table[0]).all()
    assert (row[-1] == table[-1]).all()


def test_the_second_bar_stands_below_all_lines_of_the_first():
    narrow = grid([[explanation(signed=False)], [explanation(signed=True, side=40)]], cell=CELL)
    unsigned, signed = bars(narrow, False), bars(narrow, True)
    lines = round(1.7 * SMALL)
    assert (signed.top - unsigned.top) % lines == 0
    assert signed.top - unsigned.top > lines  # "bright: more, dark: less" breaks beside the bar
    words = ink(narrow, unsigned.right + GAP, unsigned.top - 2)
    assert words.right <= narrow.width - GAP + 1


def test_a_warning_stands_along_the_lower_edge():
    flat = Explanation(torch.ones(2, 2), "toy", image=plain("#808080", 200, 100), input_size=(100, 200))
    figure = overlay(flat)
    dark = (np.asarray(figure) == ImageColor.getrgb("#1a1a1a")).all(-1)
    banner = area_of(dark)
    assert (banner.left, banner.right, banner.bottom) == (0, 200, 100)
    assert 80 <= banner.top < 90
    words = area_of((np.asarray(figure) > 200).all(-1))
    assert words.left >= 4
    assert words.middle == pytest.approx((100, banner.middle[1]), abs=2)
