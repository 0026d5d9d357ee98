"""From masks to boxes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray


def boxes_around(masks: Bool[ndarray, "objects rows cols"]) -> Float[ndarray, "objects 4"]:
    """The tightest box around each mask: left, top, right, bottom in pixels, right and bottom not included.

    An empty mask gets a box of no size at the origin.
    """
    boxes = np.zeros((len(masks), 4))
    for axis, first in ((1, 0), (2, 1)):  # what is left of the mask along the rows tells left and right
        line = masks.any(axis)
        boxes[:, first] = line.argmax(1)
        boxes[:, first + 2] = np.where(line.any(1), line.shape[1] - line[:, ::-1].argmax(1), 0)
    return boxes
