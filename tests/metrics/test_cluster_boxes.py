"""Cluster boxes against a literal loop: oracle and chosen box are two numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from toys import toy_cnn

from seewhy.core.segmentation import background_clusters, choose_box, component_boxes
from seewhy.methods import NAVE, Saliency
from seewhy.metrics import ClusterBoxes
from seewhy.metrics.localization.box_iou import average_precision

MODEL = toy_cnn()
SIZE = (64, 80)


def _labels(seed: int) -> np.ndarray:
    """Cluster 0 around a cross of two clusters, and specks."""
    cells = np.zeros((16, 20), int)
    rng = np.random.default_rng(seed)
    top, left = rng.integers(2, 6, 2)
    cells[top : top + 7, left : left + 9] = 1
    cells[top + 2 : top + 5, left + 3 : left + 12] = 2
    cells[tuple(rng.integers(0, 16, (2, 6)))] = 3
    return cells


def _iou(box, other) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return both / (sum(areas) - both)


def _inputs(labels: np.ndarray, boxes: list[torch.Tensor]) -> dict:
    method = NAVE(MODEL, k=4)
    method.segments = lambda x: torch.from_numpy(labels)
    x = torch.rand(len(labels), 3, *SIZE)
    return {"method": method, "model": MODEL, "x": x, "target": 0, "boxes": boxes}


def test_oracle_and_chosen_are_those_of_a_literal_loop():
    labels = np.stack([_labels(seed) for seed in range(4)])
    boxes = [torch.tensor([[8.0 + 4 * i, 12, 44, 44], [30, 2, 78, 60]]) for i in range(4)]
    found = ClusterBoxes(min_area=100, border=4).measure(torch.rand(4, *SIZE), **_inputs(labels, boxes))
    for i in range(4):
        grown = labels[i].repeat(4, 0).repeat(4, 1)
        ious = []
        for cluster in range(4):
            parts, n = label(grown == cluster)
            for part in range(1, n + 1):
                if (parts == part).sum() < 100:
                    continue
                rows, cols = np.nonzero((parts == part)[4:-4, 4:-4])  # the edge goes after the small ones
                box = (cols.min() + 4, rows.min() + 4, cols.max() + 5, rows.max() + 5)
                ious.append((max(_iou(box, other) for other in boxes[i].tolist()), box))
        assert float(found.parts["oracle"][i]) == pytest.approx(max(ious)[0])
        components = component_boxes(labels[i], SIZE, 100, 4)
        box = choose_box(components, background_clusters(labels[i])).box
        (chosen,) = [iou for iou, own in ious if own == (box.left, box.top, box.right, box.bottom)]
        assert float(found.value[i]) == pytest.approx(chosen)
    assert (found.parts["oracle"] >= found.value).all()
    assert bool((found.parts["oracle"] > found.value).any())
    for part, of in (("corloc", found.value), ("oracle_corloc", found.parts["oracle"])):
        assert found.parts[part].tolist() == (of >= 0.5).double().tolist()
    of_set = ClusterBoxes.aggregate({"": found.value, **found.parts})["ap50"]
    assert of_set == average_precision(found.value, found.parts["confidence"], torch.full((4,), 2.0))


def test_the_drawn_map_does_not_matter_and_a_method_without_clusters_has_no_score():
    labels, boxes = np.stack([_labels(0)]), [torch.tensor([[8.0, 8, 40, 40]])]
    inputs = _inputs(labels, boxes)
    metric = ClusterBoxes(min_area=0, border=0)
    assert metric(torch.rand(1, *SIZE), **inputs) == metric(torch.zeros(1, *SIZE), **inputs)
    found = metric.measure(torch.rand(1, *SIZE), **{**inputs, "method": Saliency(MODEL)})
    assert found.reasons == {0: "the method makes no clusters"}
    nothing = metric.measure(torch.rand(1, *SIZE), **{**_inputs(labels * 0 - 1, boxes)})
    assert (float(nothing.value), float(nothing.parts["oracle"])) == (0.0, 0.0)
