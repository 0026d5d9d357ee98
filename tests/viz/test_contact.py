"""The contact sheet: outlines are on the mask's own border, and every scene has its place."""

from __future__ import annotations

import numpy as np
from PIL import Image

from seewhy.data.scenes import Scenes
from seewhy.viz.contact import MARK_OUTLINE, OUTLINES, contact_sheet, outline_sample


def test_outlines_are_the_border_and_nothing_else_changes() -> None:
    scene = Scenes("multi")[3]
    drawn = np.asarray(outline_sample(scene, scale=1))
    for i, mask in enumerate(scene.masks):
        padded = np.pad(mask, 1)
        for y, x in np.argwhere(mask):
            around = padded[y : y + 3, x : x + 3]
            border = not (around[0, 1] and around[2, 1] and around[1, 0] and around[1, 2])
            assert (tuple(drawn[y, x]) == OUTLINES[i]) == border or not border
    untouched = scene.background
    assert (drawn[untouched] == np.asarray(scene.image)[untouched]).all()


def test_a_mark_is_outlined_too() -> None:
    scene = Scenes("shortcut")[0]
    drawn = np.asarray(outline_sample(scene, scale=2))
    ys, xs = np.nonzero(scene.mark)
    assert tuple(drawn[2 * ys.min(), 2 * xs.min()]) == MARK_OUTLINE


def test_every_scene_has_its_place() -> None:
    scenes = Scenes("blank", n=5)
    sheet = np.asarray(contact_sheet(scenes, columns=2, scale=1))
    for i, scene in enumerate(scenes):
        x, y = 8 + i % 2 * (96 + 8), 8 + i // 2 * (96 + 4 * 15 + 8)
        assert (sheet[y : y + 96, x : x + 96] == np.asarray(scene.image)).all()
    assert contact_sheet([]).size == Image.new("RGB", (8, 8)).size
