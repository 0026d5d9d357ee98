"""Several targets of one picture ask the model the same things: rows of a batch that need not run twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class ImageIndex:
    """Which rows of a batch show the same picture: row i shows picture `of[i]`."""

    def __init__(self, of: Sequence[int]) -> None:
        pictures = list(dict.fromkeys(of))
        self._batch = len(of)
        self._first = [list(of).index(picture) for picture in pictures]
        self._place = torch.tensor([pictures.index(picture) for picture in of])

    def once(self, x: Tensor) -> Tensor:
        """Of each whole batch, the first row of each picture."""
        return x.unflatten(0, (-1, self._batch))[:, self._first].flatten(0, 1)

    def spread(self, values: Tensor) -> Tensor:
        """What came of each picture, at every row again."""
        place = self._place.to(values.device, non_blocking=True)
        return values.unflatten(0, (-1, len(self._first)))[:, place].flatten(0, 1)


_KNOWN: ContextVar[tuple[object, ImageIndex] | None] = ContextVar("repeats", default=None)


@contextmanager
def sharing_images(model: object, of: Sequence[int]) -> Iterator[None]:
    """In the block, the batches of this model are known to repeat pictures."""
    token = _KNOWN.set((model, ImageIndex(of)))
    try:
        yield
    finally:
        _KNOWN.reset(token)


def image_index_of(model: object) -> ImageIndex | None:
    """What is known of the repetitions in this model's batches; nothing where gradients are taken, row by row."""
    known = _KNOWN.get()
    return known[1] if known and known[0] is model and not torch.is_grad_enabled() else None
