"""Segments drawn over images: lines where labels change, boxes where they belong, one color for one number."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageColor

from seewhy.analysis.segments import ImageSegments
from seewhy.core.boxes import Box
from seewhy.core.segmentation import Segmentation, background_clusters, choose_box, component_boxes
from seewhy.explanation import Explanation
from seewhy.viz.segments import COLORS, color_of, label_borders, object_figure, segments_figure


def example(labels: np.ndarray, k: int = 3) -> ImageSegments:
    parts = component_boxes(labels, (240, 240), 0, 0)
    background = background_clusters(labels)
    return ImageSegments(
        Image.new("RGB", (240, 240), (120, 130, 140)),
        labels,
        torch.zeros(k, *labels.shape),
        parts,
        background,
        choose_box(parts, background),
    )


def count(image: Image.Image, color: str) -> int:
    return int((np.asarray(image) == ImageColor.getrgb(color)).all(2).sum())


def test_borders_are_on_both_sides_of_a_change():
    labels = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    assert (label_borders(labels) == [[0, 1, 1], [0, 1, 1], [0, 0, 1]]).all()
    assert not label_borders(labels * 0).any()


def test_each_cluster_has_a_column_with_its_color_and_absent_ones_are_empty():
    labels = np.zeros((8, 8), dtype=np.int64)
    labels[3:5, 1:7] = labels[1:7, 3:5] = 1  # a cross: its outline is not its box
    figure = segments_figure([example(labels)], cell=240)
    assert count(figure, COLORS[1]) > 4 * 60  # its outline
    assert count(figure, COLORS[2]) == 0  # cluster 2 is not in this image
    two = segments_figure([example(labels), example(labels.T.copy())], ["a", "b"], cell=240)
    assert two.height > 1.8 * figure.height


def test_colors_differ_for_ten_clusters_and_follow_the_number():
    assert len(set(COLORS)) == 10
    assert color_of(13) == color_of(3) == COLORS[3]


def test_the_box_of_the_object_is_where_the_object_is():
    mask = np.zeros((100, 200), dtype=bool)
    mask[20:60, 50:150] = True
    explanation = Explanation(
        torch.rand(5, 10), "grad_cam", image=Image.new("RGB", (200, 100), (10, 90, 10)), input_size=(100, 200)
    )
    inside = object_figure(explanation, Segmentation(mask, Box(50, 20, 150, 60)), cell=200)
    everything = object_figure(explanation, Segmentation(mask | True, Box(0, 0, 200, 100)), cell=200)
    # the image's own color shows in the image's cell and inside the object
    shown = [count(figure, "#0a5a0a") - 200 * 100 for figure in (inside, everything)]
    assert 0.7 * 4000 < shown[0] < 4000  # less the outline and the box
    assert shown[1] > 0.8 * 20000
