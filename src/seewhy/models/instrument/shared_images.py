"""Rows of a batch that show the same image and so need only one forward: several targets of one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class ImageIndex:
    """Index of the rows of a batch that show the same image.

    Args:
        index: One number per row; rows with equal numbers show the same image.
    """

    def __init__(self, index: Sequence[int]) -> None:
        index = list(index)
        images = list(dict.fromkeys(index))
        self._batch = len(index)
        self._first_rows = [index.index(image) for image in images]
        self._image_of_row = torch.tensor([images.index(image) for image in index])

    def unique(self, x: Tensor) -> Tensor:
        """Return the first row of each image, of each whole batch in `x` (several may follow one another)."""
        return x.unflatten(0, (-1, self._batch))[:, self._first_rows].flatten(0, 1)

    def expand(self, values: Tensor) -> Tensor:
        """Return the values of each image at every row that shows it: the inverse of `unique`."""
        image_of_row = self._image_of_row.to(values.device, non_blocking=True)
        return values.unflatten(0, (-1, len(self._first_rows)))[:, image_of_row].flatten(0, 1)


_CURRENT: ContextVar[tuple[object, ImageIndex] | None] = ContextVar("shared_images", default=None)


@contextmanager
def sharing_images(model: object, index: Sequence[int]) -> Iterator[None]:
    """Declare, for the length of the block, which rows of this model's batches show the same image."""
    token = _CURRENT.set((model, ImageIndex(index)))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def image_index_of(model: object) -> ImageIndex | None:
    """Return the index declared for this model; None in grad mode, because gradients are taken row by row."""
    current = _CURRENT.get()
    if current is None or current[0] is not model or torch.is_grad_enabled():
        return None
    return current[1]
