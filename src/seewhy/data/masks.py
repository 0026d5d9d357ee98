"""Mask files to arrays, and masks to boxes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer
from numpy import ndarray
from PIL import Image

from seewhy.errors import DataError


def read_levels(source: str | Path | bytes | Image.Image, name: str = "") -> Integer[ndarray, "rows cols"]:
    """The whole numbers that a mask file stores: grey levels, or indices where it has a palette.

    Colour pictures are taken where all channels agree; transparency is left out.

    Raises:
        DataError: the file is missing or broken, or its colours are no numbers.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the mask")
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise DataError(f"the mask {name} does not exist; unpack the annotations again")
    try:
        image = source if isinstance(source, Image.Image) else Image.open(
            BytesIO(source) if isinstance(source, bytes) else source)
        image.load()
        levels = np.asarray(image)
    except Exception as error:  # decoders raise anything on broken bytes
        raise DataError(f"the mask {name} cannot be read ({type(error).__name__}); get the file again") from error
    if levels.ndim == 3:
        colours = levels[..., : 1 if image.mode in ("LA", "La", "PA") else 3]
        if (colours != colours[..., :1]).any():
            raise DataError(f"the mask {name} is coloured; store the numbers of its objects as grey levels")
        levels = colours[..., 0]
    if levels.dtype.kind == "f":
        raise DataError(f"the mask {name} holds fractions; store the numbers of its objects as grey levels")
    return levels.astype(np.int64)


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
