"""Boxes of masks, and their overlap."""

from __future__ import annotations

import numpy as np
import pytest

from seewhy.core.boxes import Box, inner_box, masks_to_boxes, tight_box
from seewhy.errors import OptionError


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


def test_boxes_of_masks_end_after_the_last_pixel_and_an_empty_mask_has_one_of_no_size():
    masks = np.zeros((2, 5, 7), dtype=bool)
    masks[0, 1:3, 4:7] = True
    assert masks_to_boxes(masks).tolist() == [[4, 1, 7, 3], [0, 0, 0, 0]]
    assert masks_to_boxes(masks[:0]).shape == (0, 4)


def test_iou():
    assert Box(0, 0, 10, 10).iou(Box(5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert Box(0, 0, 2, 2).iou(Box(2, 2, 4, 4)) == 0
    assert Box(1, 1, 1, 1).iou(Box(1, 1, 1, 1)) == 0
