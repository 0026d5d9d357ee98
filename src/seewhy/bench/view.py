"""From image coordinates to the model's view: where masks and boxes lie after the resize and the crop.

Every localization number rests on this alignment.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from seewhy.errors import ModelError
from seewhy.models.adapter import VisionModel


@runtime_checkable
class KnownView(Protocol):
    """A preprocessing that says which region of an image the model sees."""

    def box(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom in pixels of the image; beyond it where the input is padded."""
        ...


def has_known_view(model: VisionModel) -> bool:
    """Tell whether the model's preprocessing says which region of an image it cuts out."""
    return isinstance(model.preprocess, KnownView)


def mask_in_model_view(
    model: VisionModel, image: Image.Image, masks: Bool[ndarray, "n h w"], size: tuple[int, int]
) -> Bool[ndarray, "n rows cols"]:
    """Map masks from image coordinates to a grid over the model's input.

    Args:
        model: The model whose preprocessing resizes and crops the image.
        image: The image that the masks belong to.
        masks: Masks at the image's size.
        size: Rows and columns of the grid; each cell takes the image pixel nearest to its center.

    Returns:
        The masks on the grid; padding around the image is False.

    Raises:
        ModelError: The model's preprocessing does not tell what it cuts out.
    """
    left, top, right, bottom = _visible_box(model, image)
    ys = _pixels_at_cell_centers(top, bottom, size[0])
    xs = _pixels_at_cell_centers(left, right, size[1])
    height, width = masks.shape[1:]
    inside = ((ys >= 0) & (ys < height))[:, None] & ((xs >= 0) & (xs < width))
    nearest = masks[:, ys.clip(0, height - 1)][:, :, xs.clip(0, width - 1)]
    return nearest & inside


def boxes_in_model_view(
    model: VisionModel, image: Image.Image, boxes: Float[ndarray, "n 4"], size: tuple[int, int]
) -> Float[ndarray, "some 4"]:
    """Map boxes from image pixels to cells of a grid over the model's input.

    Args:
        model: The model whose preprocessing resizes and crops the image.
        image: The image that the boxes belong to.
        boxes: Left, top, right, bottom in image pixels, right and bottom not included.
        size: Rows and columns of the grid.

    Returns:
        Boxes in cells, cut off at the border of the view; boxes outside of it are left out.

    Raises:
        ModelError: The model's preprocessing does not tell what it cuts out.
    """
    left, top, right, bottom = _visible_box(model, image)
    rows, cols = size
    scale = np.array([cols / (right - left), rows / (bottom - top)] * 2)
    moved = (np.asarray(boxes, float).reshape(-1, 4) - [left, top, left, top]) * scale
    moved = moved.clip(0, [cols, rows] * 2)
    visible = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
    return moved[visible]


def _visible_box(model: VisionModel, image: Image.Image) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of what the model sees, in image pixels."""
    if isinstance(model.preprocess, KnownView):
        return model.preprocess.box(image)
    raise ModelError(
        f"the preprocess function of {model.name} does not tell which region of the image it keeps; "
        "wrap(module, preprocess=Preprocess(…))"
    )


def _pixels_at_cell_centers(start: float, end: float, cells: int) -> ndarray:
    """Return the pixel in which the center of each of `cells` equal parts of [start, end) lies."""
    centers = start + (np.arange(cells) + 0.5) * (end - start) / cells
    return np.floor(centers).astype(int)
