"""Rows of a batch that show the same image and so need only one forward: several targets of one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class ImageIndex:
    """Index of the rows of a batch that show the same image.

    The rows are also laid out in rounds, each with one row of every image: what is done to all images once for each of
    their targets is done round by round. An image with fewer targets than another repeats its first.

    Args:
        index: One number per row; rows with equal numbers show the same image.

    Attributes:
        rounds: The largest number of rows of one image.
        rows: The row at each place of each round, one round after the other.
    """

    def __init__(self, index: Sequence[int]) -> None:
        index = list(index)
        images = list(dict.fromkeys(index))
        self._batch = len(index)
        self._first_rows = [index.index(image) for image in images]
        image_of_row = [images.index(image) for image in index]
        self._image_of_row = torch.tensor(image_of_row)
        seen: Counter[int] = Counter()
        places = []
        for image in image_of_row:
            places.append(seen[image] * len(images) + image)
            seen[image] += 1
        self.rounds = max(seen.values())
        self._places = torch.tensor(places)
        row_at = dict(zip(places, range(len(index)), strict=True))
        self.rows = [row_at.get(p, self._first_rows[p % len(images)]) for p in range(self.rounds * len(images))]

    def unique(self, x: Tensor) -> Tensor:
        """Return the first row of each image, of each whole batch in `x` (several may follow one another)."""
        return x.unflatten(0, (-1, self._batch))[:, self._first_rows].flatten(0, 1)

    def expand(self, values: Tensor) -> Tensor:
        """Return the values of each image at every row that shows it: the inverse of `unique`."""
        image_of_row = self._image_of_row.to(values.device, non_blocking=True)
        return values.unflatten(0, (-1, len(self._first_rows)))[:, image_of_row].flatten(0, 1)

    @property
    def rows_by_round(self) -> Iterator[tuple[Tensor, bool]]:
        """Yield the rows of each round, and whether it is the last."""
        images = len(self._first_rows)
        for start in range(0, len(self.rows), images):
            yield torch.tensor(self.rows[start : start + images]), start + images == len(self.rows)

    def from_rounds(self, values: Tensor) -> Tensor:
        """Return for every row its value, of values that lie round by round."""
        return values[self._places.to(values.device, non_blocking=True)]


@dataclass(frozen=True)
class _Sharing:
    """What is declared: of which model, which rows, and whether its batches hold each image once already."""

    model: object
    index: ImageIndex
    unique: bool = False


_CURRENT: ContextVar[_Sharing | None] = ContextVar("shared_images", default=None)


@contextmanager
def sharing_images(model: object, index: Sequence[int]) -> Iterator[None]:
    """Declare, for the length of the block, which rows of this model's batches show the same image."""
    token = _CURRENT.set(_Sharing(model, ImageIndex(index)))
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def passing_unique_images(model: object) -> Iterator[None]:
    """Declare, for the length of the block, that this model's batches hold each shared image once already."""
    current = _CURRENT.get()
    if current is None or current.model is not model:
        yield
        return
    token = _CURRENT.set(replace(current, unique=True))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_index_of(model: object) -> tuple[ImageIndex | None, bool]:
    """Return the index declared for this model, and whether its batches hold each image once already.

    None in grad mode where they do not, because gradients are taken row by row.
    """
    current = _CURRENT.get()
    if current is None or current.model is not model or (torch.is_grad_enabled() and not current.unique):
        return None, False
    return current.index, current.unique


def image_index_of(model: object) -> ImageIndex | None:
    """Return the index declared for this model; None in grad mode, because gradients are taken row by row."""
    index, unique = current_index_of(model)
    return None if unique else index
