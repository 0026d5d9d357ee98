"""The demo page."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("skimage")

from seewhy.cli import demo_page as demo


def test_the_page_is_whole_and_names_what_the_network_sees(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "METHODS", {"lafam": {}, "grad_cam": {}})
    page = demo.build(tmp_path / "demo", device="cpu").read_text()
    assert "Egyptian cat" in page
    assert "espresso" in page
    assert "mushroom" in page
    assert page.count("data:image/") == 3
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page needs other files"
    names = {path.name for path in (tmp_path / "demo").glob("*.png")}
    assert {"the_cat.png", "the_coffee.png", "the_scene.png", "the_cat_grad_cam_tiger_cat.png"} <= names
