"""Components of hand-made label maps, and the rule that picks one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seewhy.core.boxes import Box
from seewhy.core.segmentation import (
    background_clusters,
    choose_box,
    component_boxes,
    foreground_cluster,
    resize_labels,
)
from seewhy.errors import OptionError


def drawing(text: str) -> np.ndarray:
    """A label map from lines of digits; `.` is no cluster."""
    return np.array([[-1 if c == "." else int(c) for c in line] for line in text.split()])


def test_components_touch_by_their_sides_only_and_come_largest_first():
    labels = drawing("""
        0000000
        0110010
        0110100
        0110000
        0000022""")
    parts = component_boxes(labels, min_area=0, border=0)
    assert [(c.cluster, c.area, c.box) for c in parts] == [
        (0, 25, Box(0, 0, 7, 5)),
        (1, 6, Box(1, 1, 3, 4)),
        (1, 1, Box(5, 1, 6, 2)),
        (1, 1, Box(4, 2, 5, 3)),  # corners do not connect
        (2, 2, Box(5, 4, 7, 5)),
    ]


def test_tiny_parts_and_the_border_are_dropped():
    labels = np.zeros((100, 120), dtype=int)
    labels[20:50, 30:60] = 1  # 900 pixels
    labels[60:80, 70:90] = 2  # 400
    labels[0:60, 90:120] = 3  # 1800 pixels; cut by the border to 46 × 16
    labels[:40, :10] = 4  # in the border alone
    found = component_boxes(labels, min_area=900, border=14)
    assert [(c.cluster, c.box) for c in found] == [
        (0, Box(14, 14, 106, 86)),
        (1, Box(30, 20, 60, 50)),
        (3, Box(90, 14, 106, 60)),
    ]
    assert [c.cluster for c in component_boxes(labels, min_area=901, border=14)] == [0, 3]
    assert component_boxes(labels, min_area=0, border=60) == []


def test_the_papers_limits_hold_from_224_pixels_and_shrink_below():
    for side, least, border in ((448, 784, 14), (224, 784, 14), (112, 196, 7)):
        labels = np.full((side, side), -1)
        labels[40:, 40 : 40 + least // 28] = 0
        labels[40 + 28 :] = -1
        assert bool(component_boxes(labels)) == (least // 28 * 28 == least)
        labels[40, 40] = -1
        assert not component_boxes(labels)
        everything = component_boxes(np.zeros((side, side), dtype=int))
        assert everything[0].box == Box(border, border, side - border, side - border)


def test_labels_grow_to_the_picture_with_centers_on_centers():
    labels = torch.tensor([[0, 1, 2], [3, 4, 5]])
    for size in ((2, 3), (4, 9), (5, 7), (11, 4)):
        rows = [int((i + 0.5) * 2 / size[0]) for i in range(size[0])]
        cols = [int((j + 0.5) * 3 / size[1]) for j in range(size[1])]
        assert (resize_labels(labels, size) == [[labels[i, j] for j in cols] for i in rows]).all()
    (part,) = component_boxes(torch.tensor([[-1, 0], [-1, -1]]), size=(60, 80), min_area=0, border=0)
    assert part.box == Box(40, 0, 80, 30)


def test_the_chosen_box_is_the_compact_thing_not_the_frame_round_it():
    labels = drawing("""
        0000000000
        0011111110
        0012222210
        0012222210
        0012222210
        0011111110
        0000000330""")
    parts = component_boxes(labels, min_area=0, border=0)
    ring = next(c for c in parts if c.cluster == 1)
    thing = next(c for c in parts if c.cluster == 2)
    assert (ring.core, ring.presence) == (20, pytest.approx(400 / 35))  # 15 of its inner box are not its own
    assert thing.core == thing.area == thing.presence == 15
    assert background_clusters(labels) == {0, 3}
    assert choose_box(parts, background_clusters(labels)) is thing
    assert foreground_cluster(labels) == 2
    assert choose_box(parts, {0, 1, 2, 3}) is max(parts, key=lambda c: c.presence)  # all background: among all
    assert choose_box([]) is None


def test_bad_input_of_boxes():
    labels = np.zeros((4, 4), dtype=int)
    with pytest.raises(OptionError, match="negative"):
        component_boxes(labels, border=-1)
    with pytest.raises(OptionError, match="at least 1"):
        component_boxes(labels, size=(0, 4))
    with pytest.raises(OptionError, match="labels of 0 or more"):
        foreground_cluster(labels - 1)
