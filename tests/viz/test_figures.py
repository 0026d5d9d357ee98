"""Colors, overlays, grids and pages: what a reader's eye depends on, held in numbers."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from seewhy.core.colors import NEUTRAL, color_table, colorize
from seewhy.core.fonts import font, wrap_text
from seewhy.core.heatmap import FADE, LIFT, heatmap, overlay
from seewhy.errors import OptionError, SeewhyError
from seewhy.explanation import Explanation
from seewhy.viz.figures import distinct_titles, explanation_grid, grid
from seewhy.viz.html import Bar, Figure, Section, page

CORNERS = torch.tensor([[-1.0, 0.0], [0.0, 0.5]])


def lightness(colors: np.ndarray) -> np.ndarray:
    """CIE luminance of sRGB levels, roughly."""
    return (colors / 255.0) ** 2.2 @ np.array([0.2126, 0.7152, 0.0722])


def explained(values, image=None, signed=False, **options) -> Explanation:
    return Explanation(torch.as_tensor(values, dtype=torch.float32), "toy", image=image, signed=signed, **options)


# --- colors ---


def test_zero_of_a_signed_map_is_exactly_neutral():
    neutral = [int(NEUTRAL[i : i + 2], 16) for i in (1, 3, 5)]
    assert colorize(np.zeros((1, 1)), signed=True).tolist() == [[neutral]]
    assert colorize(torch.zeros(1, 1), signed=True).tolist() == [[neutral]]


def test_signs_are_orange_and_blue():
    against, for_ = colorize(np.array([[-0.7, 0.7]]), signed=True)[0].astype(int)
    assert for_[0] > for_[1] > for_[2]
    assert against[2] > against[1] > against[0]


def test_strength_darkens_signed_maps_and_lights_unsigned_ones():
    assert (np.diff(lightness(color_table(False))) > -1e-4).all()
    signed = lightness(color_table(True))
    middle = len(signed) // 2
    assert len(signed) % 2 == 1
    assert (np.diff(signed[: middle + 1]) > -5e-3).all()  # 8-bit levels
    assert (np.diff(signed[middle:]) < 5e-3).all()


@pytest.mark.parametrize(
    "matrix",  # Viénot 1999, linear RGB: what people without red or without green cones see
    [
        [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    ],
)
def test_signs_differ_for_the_color_blind(matrix):
    linear = (colorize(np.array([[-0.5, 0.5], [-1.0, 1.0]]), signed=True) / 255.0) ** 2.2
    seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
    assert (np.abs(seen[:, 0] - seen[:, 1]).max(axis=-1) > 0.4).all()


def test_values_outside_are_clipped():
    np.testing.assert_array_equal(colorize(np.array([[-3.0, 9.0]]), True), colorize(np.array([[-1.0, 1.0]]), True))
    np.testing.assert_array_equal(colorize(np.array([[-3.0, 9.0]]), False), colorize(np.array([[0.0, 1.0]]), False))


# --- overlays ---


def test_overlay_is_the_image_where_the_map_is_zero(cat):
    image = np.asarray(overlay(explained([[0.0, 1.0]], cat), size=(20, 40), mode="nearest"), float)
    small = cat.resize((40, 20), Image.Resampling.BICUBIC)
    gray = np.asarray(Image.blend(small, small.convert("L").convert("RGB"), FADE), float)
    pale = gray * (1 - LIFT) + 255 * LIFT
    np.testing.assert_allclose(image[:, :20], pale[:, :20], atol=1)
    strong = colorize(np.ones((1, 1)), False)[0, 0]
    np.testing.assert_allclose(image[:, 20:], pale[:, 20:] * 0.2 + strong * 0.8, atol=1)


def test_signed_overlay_hides_zero_and_shows_both_signs(cat):
    flat = Image.new("RGB", (40, 40), (128, 128, 128))
    image = np.asarray(overlay(explained(CORNERS, flat, signed=True), size=(40, 40), mode="nearest"), int)
    background = round(128 * (1 - LIFT) + 255 * LIFT)
    assert np.abs(image[5, 25] - background).max() <= 1
    assert image[5, 5, 2] > image[5, 5, 0]
    assert image[25, 25, 0] > image[25, 25, 2]
    # half as strong: nearer to the image
    assert np.abs(image[25, 25] - background).sum() < np.abs(image[5, 5] - background).sum()


def test_where_zero_means_hidden_the_rest_has_the_full_range(cat):
    """U-RELAX keeps 0.80 to 0.90 here: from zero on that would be one bright spot without any inside."""
    half = [[0.0, 0.80], [0.85, 0.90]]
    kept, plain = (
        heatmap(Explanation(torch.tensor(half), name), size=(2, 2), mode="nearest") for name in ("u_relax", "relax")
    )
    tones = [lightness(np.asarray(image)).ravel() for image in (kept, plain)]
    for tone in tones:
        assert (np.diff(tone) > 0).all()  # hidden, weak, middle, strong
    assert np.ptp(tones[0][1:]) > 3 * np.ptp(tones[1][1:])
    for same in (torch.zeros(2, 2), torch.tensor([[0.0, 0.7], [0.7, 0.7]])):
        assert np.isfinite(np.asarray(heatmap(Explanation(same, "u_relax")))).all()


def test_opacity_zero_leaves_the_image(cat):
    weak = overlay(explained([[0.0, 1.0]], cat), alpha=0.0)
    none = overlay(explained([[1.0, 0.0]], cat), alpha=0.0)
    np.testing.assert_array_equal(weak, none)


def test_sizes(cat):
    assert overlay(explained([[0.0, 1.0]], cat)).size == cat.size
    tiny = cat.resize((30, 20))
    assert overlay(explained([[0.0, 1.0]], tiny, input_size=(224, 224))).size == (336, 224)
    assert overlay(explained([[0.0, 1.0]], input_size=(96, 160))).size == (160, 96)
    assert heatmap(explained([[0.0, 1.0]], cat), size=(10, 30)).size == (30, 10)


def test_peak_does_not_depend_on_the_size(cat):
    spot = torch.zeros(7, 7)
    spot[3, 3] = 1
    for size in ((21, 21), (217, 217)):
        peak = np.asarray(heatmap(explained(spot), size=size)).reshape(-1, 3)
        assert lightness(peak).max() == pytest.approx(lightness(color_table(False)).max(), abs=0.03)


def test_pixel_maps_are_clipped_for_the_eye_only():
    values = torch.rand(64, 64)
    values[0, 0] = 1000.0
    fine = explained(values)
    clipped, raw = (np.asarray(heatmap(fine, size=(64, 64), clip=c)) for c in (None, 1.0))
    assert lightness(clipped)[10:].mean() > 20 * lightness(raw)[10:].mean()
    assert fine.attribution[0, 0] == 1000
    coarse = explained(values[:7, :7])
    np.testing.assert_array_equal(heatmap(coarse, size=(7, 7)), heatmap(coarse, size=(7, 7), clip=1.0))


def test_constant_maps_are_labeled(cat):
    constant = np.asarray(overlay(explained(torch.ones(7, 7), cat)), int)
    plain = np.asarray(overlay(explained(torch.eye(7), cat), alpha=0.0), int)
    np.testing.assert_array_equal(constant[:200], plain[:200])
    assert np.median(constant[-20:]) < 40  # the banner


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"mode": "cubic"}, {"size": (0, 3)}, {"clip": 0.0}])
def test_impossible_options(cat, options):
    with pytest.raises(OptionError):
        overlay(explained([[0.0, 1.0]], cat), **options)


# --- grids ---


def test_grid_holds_the_cells(cat, coffee):
    toy = explained([[0.0, 1.0]], coffee)
    figure = np.asarray(grid([[cat, toy], [coffee, None]], ["a", "b"], ["image", "map"], "title", cell=120))
    for image in (cat.resize((120, 80), Image.Resampling.LANCZOS), toy.overlay(size=(80, 120))):
        assert _contains(figure, np.asarray(image))


def _contains(sheet: np.ndarray, image: np.ndarray) -> bool:
    corners = np.argwhere((sheet == image[0, 0]).all(-1))
    return any(np.array_equal(sheet[y : y + image.shape[0], x : x + image.shape[1]], image) for y, x in corners)


def test_grid_legend_only_for_maps_in_it(cat):
    toy, signed = explained([[0.0, 1.0]], cat), explained(CORNERS, cat, signed=True)
    heights = [grid([row], cell=100).height for row in ([cat, cat], [toy, cat], [toy, toy], [toy, signed])]
    assert heights[0] < heights[1] == heights[2] < heights[3]


def test_a_narrow_grid_breaks_its_legend_into_lines(cat):
    fine = explained(torch.rand(40, 40), cat)
    narrow, wide = (grid([[fine] * n], cell=240) for n in (1, 4))
    assert narrow.height > wide.height
    ink = (np.asarray(narrow.convert("L"))[-60:] < 200).any(0)
    assert not ink[-6:].any()  # nothing runs out of the image


def test_columns_of_one_method_say_how_they_differ(cat):
    maps = [
        Explanation(torch.rand(2, 2), "attention_map", options={"block": -1, "head": h}, image=cat) for h in (None, 1)
    ]
    maps.append(Explanation(torch.rand(2, 2), "lafam", options={"reduce": "norm"}, image=cat))
    assert distinct_titles(maps) == ["Attention map", "Attention map head=1", "LaFAM"]
    assert distinct_titles(maps[1:]) == ["Attention map", "LaFAM"]
    assert explanation_grid([maps], cell=100).height > explanation_grid([maps[1:]], cell=100).height  # two lines


def test_grid_of_uneven_rows_and_long_words(cat):
    long = "a_very_long_file_name_without_any_space_in_it.jpeg"
    figure = grid([[cat, cat], [cat]], [long, "b"], [long, "x"], captions=[[long, ""], [long * 3]], cell=100)
    assert figure.width < 400


@pytest.mark.parametrize(
    "options",
    [{"rows": []}, {"rows": [[]]}, {"row_titles": ["a", "b"]}, {"col_titles": []}, {"captions": [["a", "b"]]}],
)
def test_grid_refuses_what_does_not_fit(cat, options):
    with pytest.raises(OptionError):
        grid(**({"rows": [[cat]]} | options))


def test_wrap():
    lines = wrap_text("one two three four five six seven eight nine ten", 100, 12, max_lines=2)
    assert len(lines) == 2
    assert lines[-1].endswith("…")
    assert "".join(wrap_text("x" * 60, 100, 12, max_lines=9)) == "x" * 60
    assert all(font(12).getlength(line) <= 100 for line in lines + wrap_text("y" * 99, 100, 12))
    assert wrap_text("", 100, 12) == []


# --- pages ---


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_page(tmp_path, cat):
    nasty = '<script>alert("1")</script>.png'
    constant = Figure.of(explained(torch.ones(2, 2), cat))
    figures = [Figure(cat, nasty, lossless=True), constant, Figure(cat, wide=True, alt="all")]
    bars = [Bar("tabby & co", 0.394), Bar("lynx", 0.0001), Bar("sum", 7.0, "7 of 9")]
    path = page(nasty, [Section(nasty, nasty, bars, figures, "Top", nasty)], tmp_path / "deep" / "index.html", nasty)
    source = path.read_text("utf-8")
    reader = _Reader()
    reader.feed(source)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.text.count(nasty) >= 5
    for word in ("tabby & co", "39.4 %", "< 0.1 %", "7 of 9", "constant map"):
        assert word in reader.text
    images = [attrs for tag, attrs in reader.tags if tag == "img"]
    assert len(images) == 3
    assert all(attrs["alt"] and attrs["src"].startswith("data:image/") for attrs in images)
    np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(images[0]["src"].split(",")[1]))), cat)
    assert not re.search(r"https?://|url\(|@import|<link", source)  # self-contained
    assert "width: 100.0%" in source  # a bar never leaves its track
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]


def test_page_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SeewhyError, match="cannot write"):
        page("t", [], tmp_path / "file" / "index.html")


def test_images_pull_no_pyplot():
    import subprocess
    import sys

    code = (
        "import sys, seewhy.viz.figures, seewhy.viz.html, seewhy.core.preprocess; "
        "print([m for m in ('matplotlib', 'jinja2', 'torchvision', 'timm') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
