"""Many methods for one photo, as a page."""

from __future__ import annotations

import re

import pytest
import toys

from seewhy.explainer import compare
from seewhy.methods.factory import as_method
from seewhy.targets import top
from seewhy.viz.comparison import save_comparison

METHODS = ("lafam", "grad_cam", "saliency", "occlusion")


@pytest.fixture
def page(cat, tmp_path):
    model = toys.toy_cnn()
    tools = [as_method(model, name) for name in METHODS]
    maps = compare(model, cat, tools, top(2))
    return save_comparison(maps, tools, tmp_path / "all.html", "cat").read_text("utf-8")


def test_the_photo_comes_first_then_a_section_for_each_family(page):
    assert re.findall("<h2>(.*?)</h2>", page) == ["The image", "CAM", "Gradient", "Perturbation"]
    assert page.count("<img") == 1 + 1 + 3 * 2  # the photo, the label-free map once, the others for both targets


def test_the_colors_and_the_costs_are_told(page):
    assert "blue against it" in page
    for name in METHODS:
        tool = as_method(toys.toy_cnn(), name)
        assert tool.card.summary in page
        assert f"Passes: {tool.cost}." in page
