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
    image = np.where((disc | far)[..., None], (190, 60, 50), (60, 140, 70)).astype(np.float64)
    image += np.random.default_rng(0).normal(0, 12, image.shape)
    coarse = torch.exp(-((torch.arange(9.0)[:, None] - 4) ** 2 + (torch.arange(12.0) - 4.5) ** 2) / 5)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8)), disc, coarse


def test_graph_cut_outlines_the_object_not_the_map(blob):
    image, disc, coarse = blob
    result = segment_object(image, coarse)
    assert (result.mask & disc).sum() / (result.mask | disc).sum() > 0.97
    assert not result.mask[10:30, 98:112].any()  # the same color elsewhere is not the largest component
    assert result.box == tight_box(result.mask)
    assert result.box.iou(tight_box(disc)) > 0.95


def test_a_large_image_is_cut_small_and_its_mask_has_the_images_size(blob):
    image, disc, coarse = blob
    large = image.resize((480, 360), Image.Resampling.NEAREST)
    result = segment_object(large, coarse, max_side=120)
    assert large.size == (480, 360)
    assert result.mask.shape == (360, 480)
    assert (result.mask == segment_object(image, coarse).mask.repeat(4, 0).repeat(4, 1)).mean() > 0.99
    grown = disc.repeat(4, 0).repeat(4, 1)
    assert (result.mask & grown).sum() / (result.mask | grown).sum() > 0.95


def test_graph_cut_is_repeatable_and_leaves_opencvs_generator_alone(blob):
    image, _, coarse = blob

    def next_draw():
        return cv2.randu(np.zeros((1, 4), dtype=np.uint8), 0, 255).tolist()

    cv2.setRNGSeed(5)
    want = next_draw()
    cv2.setRNGSeed(5)
    first = segment_object(image, coarse)
    assert next_draw() == want
    cv2.setRNGSeed(6)
    assert (segment_object(image, coarse).mask == first.mask).all()


def test_graph_cut_of_a_sparse_map_and_of_few_colors():
    image = np.full((40, 40, 3), 200, dtype=np.uint8)
    image[10:25, 15:30] = 30
    dots = torch.zeros(40, 40)
    dots[12:22:3, 18:28:3] = 1  # fewer than 5 % of the pixels, and nothing below the 30 % quantile
    result = segment_object(Image.fromarray(image), dots)
    assert result.box == Box(15, 10, 30, 25)
    assert result.mask.sum() == 225


def test_graph_cut_on_real_cut_outs(shared_data):
    """Real images, a real network's Grad-CAM: the outline is nearer to the exact mask than the map itself."""
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
    """Any map over an image of one color: nothing tells the two models apart."""
    plain = Image.new("RGB", (30, 30), (90, 90, 90))
    with pytest.raises(SeewhyError, match="finds no outline"):
        segment_object(plain, torch.rand(30, 30, generator=torch.Generator().manual_seed(0)))


def test_bad_input_of_the_graph_cut(blob, monkeypatch):
    image, _, coarse = blob
    with pytest.raises(ConstantMapError, match="points at nothing"):
        segment_object(image, torch.ones(3, 3))
    with pytest.raises(NonFiniteError, match="NaN"):
        segment_object(image, torch.full((3, 3), torch.nan))
    with pytest.raises(OptionError, match="0 < background < foreground < 1"):
        segment_object(image, coarse, foreground=0.2)
    with pytest.raises(OptionError, match="1 … 5"):
        segment_object(image, coarse, components=6)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[segmentation\]"):
        segment_object(image, coarse)
