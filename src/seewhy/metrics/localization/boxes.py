"""Boxes of objects and of maps, for the metrics that compare them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy import ndarray
from torch import Tensor

from seewhy.analysis.segmentation import inner_box, tight_box
from seewhy.errors import require

SHAPES = {"tight": tight_box, "inner": inner_box}


def padded(boxes: Sequence[Float[Tensor, "_ 4"]], device: torch.device) -> Float64[Tensor, "batch most 4"]:
    """One tensor for all images; missing boxes are empty ones at the origin."""
    filled = torch.nn.utils.rnn.pad_sequence([b.double().reshape(-1, 4) for b in boxes], batch_first=True)
    return filled.to(device)


def covered(boxes: Float64[Tensor, "batch most 4"], rows: int, cols: int) -> Bool[Tensor, "batch rows cols"]:
    """The pixels whose center lies in one of the boxes."""
    y, x = (torch.arange(n, device=boxes.device) + 0.5 for n in (rows, cols))
    left, top, right, bottom = boxes[..., None].unbind(2)
    in_rows, in_cols = (top <= y) & (y < bottom), (left <= x) & (x < right)
    return (in_rows[..., :, None] & in_cols[..., None, :]).any(1)


def box_ious(box: Float64[Tensor, "batch 4"], others: Float64[Tensor, "batch most 4"]) -> Float64[Tensor, "batch most"]:
    """IoU of one box with each of the others; 0 with an empty one."""
    box = box[:, None]
    low, high = torch.maximum(box[..., :2], others[..., :2]), torch.minimum(box[..., 2:], others[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    union = _area(box) + _area(others) - both
    return torch.where(union > 0, both / union, 0.0)


def largest_boxes(regions: Bool[Tensor, "batch rows cols"], shape: str) -> Float64[Tensor, "batch 4"]:
    """The box of the largest connected part (4 neighbors; of equals the one that comes first in reading order).

    Zeros where there is none. The parts are found on the CPU, one image after the other.

    Raises:
        MissingExtraError: `pip install 'seewhy[cluster]'` has not been done.
    """
    label = require("scipy.ndimage", "cluster").label
    found = [_box(label, one, shape) for one in regions.cpu().numpy()]
    return torch.tensor(found, dtype=torch.float64, device=regions.device)


def _box(label, region: Bool[ndarray, "rows cols"], shape: str) -> tuple[int, int, int, int]:
    parts, number = label(region)
    if not number:
        return 0, 0, 0, 0
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    box = SHAPES[shape](parts == areas.argmax())
    return box.left, box.top, box.right, box.bottom


def _area(boxes: Float64[Tensor, "... 4"]) -> Float64[Tensor, "..."]:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


__all__ = ["SHAPES", "box_ious", "covered", "largest_boxes", "padded"]
