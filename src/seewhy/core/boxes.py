"""Boxes: one box, the boxes of masks, and boxes compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Integer
from numpy import ndarray
from torch import Tensor

from seewhy.errors import OptionError, require


@dataclass(frozen=True)
class Box:
    """Pixels `left` ≤ column < `right`, `top` ≤ row < `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """Number of pixels inside."""
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)

    def iou(self, other: Box) -> float:
        """Return the intersection over union with another box; 0 where both are empty."""
        return float(box_iou(self._tensor(), other._tensor()[:, None]))

    def cells(self) -> tuple[slice, slice]:
        """Return the index (rows, cols) of the box's part of an array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def _tensor(self) -> Float64[Tensor, "1 4"]:
        return torch.tensor([[self.left, self.top, self.right, self.bottom]], dtype=torch.float64)


def tight_box(mask: Bool[ndarray, "rows cols"]) -> Box:
    """Return the smallest box around all pixels of a mask.

    Raises:
        OptionError: When the mask is empty.
    """
    if not mask.any():
        raise OptionError("an empty mask has no box; pass a mask with at least one pixel")
    return Box(*(int(edge) for edge in masks_to_boxes(mask[None])[0]))


def inner_box(mask: Bool[ndarray, "rows cols"]) -> Box:
    """Return the box centered on the mask's median pixel that reaches to the nearest extreme on each axis.

    The median is taken for rows and columns separately; of an even number of pixels it is the lower one.
    A thin arm of the object moves the tight box a lot and this box hardly.

    Raises:
        OptionError: When the mask is empty.
    """
    box = tight_box(mask)
    top, bottom = _around_median(mask.sum(1), box.top, box.bottom)
    left, right = _around_median(mask.sum(0), box.left, box.right)
    return Box(left, top, right, bottom)


def _around_median(counts: Integer[ndarray, " n"], low: int, high: int) -> tuple[int, int]:
    """Return the range around the median of one axis, from the number of mask pixels in each row or column."""
    median = int(np.searchsorted(np.cumsum(counts), (counts.sum() + 1) // 2))
    half = min(median - low, high - 1 - median)
    return median - half, median + half + 1


def boxes_of_parts(
    mask: Bool[Tensor, "rows cols"], values: Float[Tensor, "rows cols"], min_area: float = 0.0
) -> list[Box]:
    """Return the tight box around each connected part (4 neighbors) of a mask, that of the largest value first.

    Args:
        mask: The mask.
        values: By which the parts are ordered.
        min_area: Parts that cover a smaller share of the image are left out.

    Raises:
        MissingExtraError: When `pip install 'seewhy[cluster]'` has not been done.
    """
    ndimage = require("scipy.ndimage", "cluster")
    parts, number = ndimage.label(mask.numpy())
    if not number:
        return []
    numbers = np.arange(1, number + 1)
    areas = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    peaks = ndimage.maximum(values.numpy(), parts, numbers)
    found = ndimage.find_objects(parts)
    kept = [i for i in np.argsort(-np.asarray(peaks), kind="stable") if areas[i] >= min_area * mask.numel()]
    return [Box(found[i][1].start, found[i][0].start, found[i][1].stop, found[i][0].stop) for i in kept]


def masks_to_boxes(masks: Bool[ndarray, "objects rows cols"]) -> Float[ndarray, "objects 4"]:
    """Return the tightest box around each mask: left, top, right, bottom in pixels, right and bottom not included.

    An empty mask gets a box of no size at the origin. (torchvision's function of this name includes the last pixel.)
    """
    boxes = np.zeros((len(masks), 4))
    for axis, first in ((1, 0), (2, 1)):  # the columns that the mask touches give left and right, the rows the others
        touched = np.asarray(masks.any(axis))
        boxes[:, first] = touched.argmax(1)
        boxes[:, first + 2] = np.where(touched.any(1), touched.shape[1] - touched[:, ::-1].argmax(1), 0)
    return boxes


# ── batches of boxes as tensors, left, top, right, bottom ─────────────────────────────────────────────────────────────


def pad_boxes(boxes: Sequence[Float[Tensor, "_ 4"]], device: torch.device) -> Float64[Tensor, "batch most 4"]:
    """Stack the boxes of all images in one tensor; missing boxes are empty ones at the origin."""
    padded = torch.nn.utils.rnn.pad_sequence([b.double().reshape(-1, 4) for b in boxes], batch_first=True)
    return padded.to(device)


def pixels_in_boxes(boxes: Float64[Tensor, "batch most 4"], rows: int, cols: int) -> Bool[Tensor, "batch rows cols"]:
    """Return the pixels whose center lies in at least one of an image's boxes."""
    y, x = (torch.arange(n, device=boxes.device) + 0.5 for n in (rows, cols))
    left, top, right, bottom = boxes[..., None].unbind(2)
    in_rows, in_cols = (top <= y) & (y < bottom), (left <= x) & (x < right)
    return (in_rows[..., :, None] & in_cols[..., None, :]).any(1)


def box_iou(box: Float64[Tensor, "batch 4"], others: Float64[Tensor, "batch most 4"]) -> Float64[Tensor, "batch most"]:
    """Return the intersection over union of each image's box with each of its others; 0 with an empty box."""
    box = box[:, None]
    low = torch.maximum(box[..., :2], others[..., :2])
    high = torch.minimum(box[..., 2:], others[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = _area(box) + _area(others) - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def _area(boxes: Float64[Tensor, "... 4"]) -> Float64[Tensor, "..."]:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


__all__ = [
    "Box",
    "box_iou",
    "boxes_of_parts",
    "inner_box",
    "masks_to_boxes",
    "pad_boxes",
    "pixels_in_boxes",
    "tight_box",
]
