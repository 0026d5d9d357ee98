"""The graph cut's outline of an object."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import seewhy
from seewhy.analysis.graph_cut import segment_object
from seewhy.core.boxes import Box, tight_box
from seewhy.errors import ConstantMapError, MissingExtraError, NonFiniteError, OptionError, SeewhyError


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
