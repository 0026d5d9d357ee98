"""Many images: from what people have them in to one after the other, decoded ahead of the model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from seewhy.core.deep import DeepImage
from seewhy.core.images import ImageLike, matching
from seewhy.errors import ImageError, SeewhyError

THREADS = 4
"""Threads that decode at the same time; Pillow's decoders run beside each other."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """One row of a `DataLoader`'s batch: the model's input as it is, preprocessed already."""

    tensor: Tensor


AnyImage = ImageLike | Prepared
Images = ImageLike | Iterable[ImageLike] | Dataset[Any] | DataLoader[Any]
"""One image; a list, generator or `Dataset` of images; a shell pattern of files; or a `DataLoader` of model inputs."""

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


class Lazy(Generic[I]):
    """Images that come one after the other, and are asked for once."""

    def __init__(self, items: Iterable[I]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[I]:
        return iter(self._items)


def as_stream(images: Images, axes: int = 2) -> tuple[Sequence[AnyImage] | Lazy[AnyImage], bool]:
    """Return images one by one, and whether a single one was given by itself.

    Args:
        images: Of a `Dataset` each item, or its first element, or its `"image"` or `.image`; labels are left aside. Of
            a `DataLoader` the rows of each batch, as the model's inputs.
        axes: How many axes an image has beside its channels; 3 for volumes.

    Raises:
        ImageError: There are none, a folder was given, or a batch.
    """
    if isinstance(images, str | Path):
        found = matching(images)
        if found:
            return found, False
        return [images], True
    if isinstance(images, np.ndarray | Tensor):
        if images.ndim > 1 + axes:
            raise ImageError(f"got a batch of {len(images)} images; pass list(batch) to explain each of them")
        return [images], True
    if isinstance(images, Image.Image | DeepImage):
        return [images], True
    if isinstance(images, DataLoader):
        return Lazy(_rows(images, axes)), False
    if isinstance(images, Dataset) and not isinstance(images, IterableDataset):
        table: Any = images
        return Lazy(_image_of(table[i]) for i in range(len(table))), False
    if isinstance(images, Sequence):
        if not images:
            raise ImageError("no images given; pass at least one")
        return images, False
    if not isinstance(images, Iterable):
        raise ImageError(f"a {type(images).__name__} is not an image; pass a path, an image or a list of them")
    return Lazy(_image_of(item) for item in images), False


def _image_of(item: Any) -> Any:
    if isinstance(item, Mapping) and "image" in item:
        return item["image"]
    if isinstance(item, tuple | list) and item:
        return item[0]
    return getattr(item, "image", item)


def _rows(loader: DataLoader[Any], axes: int) -> Iterator[Prepared]:
    for batch in loader:
        inputs = _image_of(batch)
        if not isinstance(inputs, Tensor) or inputs.ndim != 2 + axes or not inputs.is_floating_point():
            raise ImageError(
                "a DataLoader must yield the model's inputs (batch, channels, rows, cols), of volumes with depth, in "
                "floats, alone or first in a tuple; for images that are not preprocessed pass the dataset itself"
            )
        yield from map(Prepared, inputs)


def read_ahead(
    images: Iterable[I], open_one: Callable[[I], Callable[[], R]], ahead: int
) -> Iterator[tuple[I, R | SeewhyError]]:
    """Decode images in threads while the caller works.

    Args:
        images: The images.
        open_one: Checks one in this thread, and returns what decodes it.
        ahead: How many images may be decoded before they are asked for.

    Yields:
        Each image with what was read, or with the error.
    """
    waiting: deque[tuple[I, Callable[[], R]]] = deque()
    pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
    try:
        for image in images:
            waiting.append((image, _started(pool, image, open_one, ahead)))
            if len(waiting) > ahead:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _started(
    pool: ThreadPoolExecutor, image: I, open_one: Callable[[I], Callable[[], R]], ahead: int
) -> Callable[[], R]:
    """Start to decode a file; what is in memory may be the same object twice, and is done in this thread."""
    try:
        decode = open_one(image)
    except SeewhyError as error:
        return _raising(error)
    if ahead < 1 or not isinstance(image, str | Path):
        return decode
    future: Future[R] = pool.submit(decode)
    return future.result


def _raising(error: SeewhyError) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def _finished(image: I, result: Callable[[], R]) -> tuple[I, R | SeewhyError]:
    try:
        return image, result()
    except SeewhyError as error:
        return image, error


def saved_behind(save: Callable[[I], R], items: Iterable[I], behind: int = 4) -> Iterator[R]:
    """Save items in a thread of their own while the next ones are made; encoders of images run beside a model.

    Args:
        save: Saves one; called in that thread, in order.
        items: The items, made in this thread.
        behind: How many may wait to be saved: each may be large.

    Yields:
        What `save` returns, in order.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(save, item))
            while waiting and (waiting[0].done() or len(waiting) > behind):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
