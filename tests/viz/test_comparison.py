"""Many methods for one image, as a page."""

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
    methods = [as_method(model, name) for name in METHODS]
    maps = compare(model, cat, methods, top(2))
    return save_comparison(maps, methods, tmp_path / "all.html", "cat").read_text("utf-8")


def test_the_image_comes_first_then_a_section_for_each_family(page):
    assert re.findall("<h2>(.*?)</h2>", page) == ["The image", "CAM", "Gradient", "Perturbation"]
    assert page.count("<img") == 1 + 1 + 3 * 2  # the image, the label-free map once, the others for both targets


def test_the_colors_and_the_costs_are_told(page):
    assert "blue against it" in page
    for name in METHODS:
        method = as_method(toys.toy_cnn(), name)
        assert method.card.summary in page
        assert f"Passes: {method.cost}." in page
