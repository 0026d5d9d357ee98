"""Boxes of hand-made label maps, the rule that picks one, and the graph cut's outline of an object."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import seewhy
from seewhy.analysis.segmentation import (
    Box,
    background_clusters,
    choose_box,
    component_boxes,
    foreground_cluster,
    grown_labels,
    inner_box,
    segment_object,
    tight_box,
)
from seewhy.errors import ConstantMapError, MissingExtraError, NonFiniteError, OptionError, SeewhyError


def drawing(text: str) -> np.ndarray:
    """A label map from lines of digits; `.` is no cluster."""
    return np.array([[-1 if c == "." else int(c) for c in line] for line in text.split()])


# ── boxes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    labels[0:60, 90:120] = 3  # cut by the border to 46 × 16
    found = component_boxes(labels, min_area=736, border=14)
    assert [(c.cluster, c.box) for c in found] == [
        (0, Box(14, 14, 106, 86)),
        (1, Box(30, 20, 60, 50)),
        (3, Box(90, 14, 106, 60)),
    ]
    assert [c.cluster for c in component_boxes(labels, min_area=737, border=14)] == [0, 1]
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
        assert (grown_labels(labels, size) == [[labels[i, j] for j in cols] for i in rows]).all()
    (part,) = component_boxes(torch.tensor([[-1, 0], [-1, -1]]), size=(60, 80), min_area=0, border=0)
    assert part.box == Box(40, 0, 80, 30)


def test_inner_box_does_not_follow_a_thin_arm():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:15, 3:14] = True  # 11 × 11, its median pixel is (9, 8)
    assert inner_box(mask) == tight_box(mask) == Box(3, 4, 14, 15)
    mask[9, 14:29] = True  # an arm of 15 pixels to the right
    assert tight_box(mask) == Box(3, 4, 29, 15)
    # 136 pixels; the median of the columns is the 68th smallest: 11 in each of 3 … 8 make 66, so column 9
    assert inner_box(mask) == Box(3, 4, 16, 15)
    for empty in (inner_box, tight_box):
        with pytest.raises(OptionError, match="empty mask"):
            empty(np.zeros((3, 3), dtype=bool))


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


def test_iou():
    assert Box(0, 0, 10, 10).iou(Box(5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert Box(0, 0, 2, 2).iou(Box(2, 2, 4, 4)) == 0
    assert Box(1, 1, 1, 1).iou(Box(1, 1, 1, 1)) == 0


def test_bad_input_of_boxes():
    labels = np.zeros((4, 4), dtype=int)
    with pytest.raises(OptionError, match="negative"):
        component_boxes(labels, border=-1)
    with pytest.raises(OptionError, match="at least 1"):
        component_boxes(labels, size=(0, 4))
    with pytest.raises(OptionError, match="labels of 0 or more"):
        foreground_cluster(labels - 1)


# ── graph cut ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def blob():
    """A textured red disc on textured green, a smaller red disc far away, and a blurred, shifted map."""
    rows, cols = np.mgrid[:90, :120]
    disc = (rows - 45) ** 2 + (cols - 45) ** 2 < 24**2
    far = (rows - 20) ** 2 + (cols - 105) ** 2 < 8**2
    picture = np.where((disc | far)[..., None], (190, 60, 50), (60, 140, 70)).astype(np.float64)
    picture += np.random.default_rng(0).normal(0, 12, picture.shape)
    coarse = torch.exp(-((torch.arange(9.0)[:, None] - 4) ** 2 + (torch.arange(12.0) - 4.5) ** 2) / 5)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)), disc, coarse


def test_graph_cut_outlines_the_object_not_the_map(blob):
    picture, disc, coarse = blob
    found = segment_object(picture, coarse)
    assert (found.mask & disc).sum() / (found.mask | disc).sum() > 0.97
    assert not found.mask[10:30, 98:112].any()  # the same color elsewhere is not the largest component
    assert found.box == tight_box(found.mask)
    assert found.box.iou(tight_box(disc)) > 0.95


def test_a_large_picture_is_cut_small_and_its_mask_has_the_pictures_size(blob):
    picture, disc, coarse = blob
    large = picture.resize((480, 360), Image.Resampling.NEAREST)
    found = segment_object(large, coarse, max_side=120)
    assert large.size == (480, 360)
    assert found.mask.shape == (360, 480)
    assert (found.mask == segment_object(picture, coarse).mask.repeat(4, 0).repeat(4, 1)).mean() > 0.99
    grown = disc.repeat(4, 0).repeat(4, 1)
    assert (found.mask & grown).sum() / (found.mask | grown).sum() > 0.95


def test_graph_cut_is_repeatable_and_leaves_opencvs_generator_alone(blob):
    picture, _, coarse = blob

    def next_draw():
        return cv2.randu(np.zeros((1, 4), dtype=np.uint8), 0, 255).tolist()

    cv2.setRNGSeed(5)
    want = next_draw()
    cv2.setRNGSeed(5)
    first = segment_object(picture, coarse)
    assert next_draw() == want
    cv2.setRNGSeed(6)
    assert (segment_object(picture, coarse).mask == first.mask).all()


def test_graph_cut_of_a_sparse_map_and_of_few_colors():
    picture = np.full((40, 40, 3), 200, dtype=np.uint8)
    picture[10:25, 15:30] = 30
    dots = torch.zeros(40, 40)
    dots[12:22:3, 18:28:3] = 1  # fewer than 5 % of the pixels, and nothing below the 30 % quantile
    found = segment_object(Image.fromarray(picture), dots)
    assert found.box == Box(15, 10, 30, 25)
    assert found.mask.sum() == 225


def test_graph_cut_on_real_cut_outs(shared_data):
    """Real photos, a real network's Grad-CAM: the outline is nearer to the exact mask than the map itself."""
    pytest.importorskip("efficientnet_lite_pytorch")
    model, folder = seewhy.load_model("efficientnet_lite0", device="cpu"), shared_data / "cutouts"
    scores = {"map": [], "cut": []}
    for row in list(csv.DictReader((folder / "labels.csv").open()))[:8]:
        mask = np.asarray(Image.open(folder / row["mask"])) == 1
        map = seewhy.explain(model, folder / row["file"], "grad_cam", int(row["class1_index"]))
        grown = map.resized(mask.shape).numpy()
        guesses = {"map": grown > grown.max() / 2, "cut": segment_object(folder / row["file"], map).mask}
        for name, guess in guesses.items():
            scores[name].append((guess & mask).sum() / (guess | mask).sum())
    assert np.mean(scores["cut"]) > np.mean(scores["map"]) + 0.1, scores
    assert np.mean(scores["cut"]) > 0.7, scores


def test_no_outline_where_peak_and_background_have_the_same_colors():
    """Any map over a picture of one color: nothing tells the two models apart."""
    plain = Image.new("RGB", (30, 30), (90, 90, 90))
    with pytest.raises(SeewhyError, match="finds no outline"):
        segment_object(plain, torch.rand(30, 30, generator=torch.Generator().manual_seed(0)))


def test_bad_input_of_the_graph_cut(blob, monkeypatch):
    picture, _, coarse = blob
    with pytest.raises(ConstantMapError, match="points at nothing"):
        segment_object(picture, torch.ones(3, 3))
    with pytest.raises(NonFiniteError, match="NaN"):
        segment_object(picture, torch.full((3, 3), torch.nan))
    with pytest.raises(OptionError, match="0 < background < foreground < 1"):
        segment_object(picture, coarse, foreground=0.2)
    with pytest.raises(OptionError, match="1 … 5"):
        segment_object(picture, coarse, components=6)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[segmentation\]"):
        segment_object(picture, coarse)
