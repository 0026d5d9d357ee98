"""What every data set gives: items with a picture, its labels, and a mask and a box for each object where known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar, overload

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from seewhy.core.cards import DatasetCard, Requirement
from seewhy.core.registry import Registry
from seewhy.errors import DataError

D = TypeVar("D", bound="Dataset")

DATASETS: Registry[type[Dataset]] = Registry(
    "dataset", package="seewhy.data", group="seewhy.datasets", hint="`seewhy data list` lists them"
)
"""Every dataset by name: those of this package and those that other installed packages declare."""


def dataset(
    *,
    name: str,
    title: str,
    summary: str,
    splits: tuple[str, ...],
    layout: tuple[str, ...],
    has: set[Requirement],
    source: str,
    citation: str,
    register: bool = True,
) -> Callable[[type[D]], type[D]]:
    """Give a dataset its card and enter it in `DATASETS`; the arguments are the fields of `DatasetCard`."""

    def decorate(cls: type[D]) -> type[D]:
        cls.card = DatasetCard(name, title, summary, splits, layout, frozenset(has), source, citation)
        if register:
            DATASETS.add(name, cls)
        return cls

    return decorate


@dataclass(frozen=True, eq=False)
class Item:
    """One picture and everything that is true of it.

    Attributes:
        id: the same on every machine; a file name or number of the data set's own.
        image: RGB.
        labels: the classes that are present, as indices into the data set's `class_names`: one for each object where
            the item has masks or boxes (a class may repeat), else each class once.
        masks: one for each object, at the image's size; None where nobody drew any.
        boxes: one for each object: left, top, right, bottom in pixels, right and bottom not included.
        ignore: pixels that nobody labeled (VOC's border); they count neither as object nor as background.
        about: whatever else is known (texture, biomarkers, author …), JSON-able.

    Raises:
        DataError: masks, boxes and labels do not fit each other or the image, or a box is none.
    """

    id: str
    image: Image.Image
    labels: tuple[int, ...] = ()
    masks: Bool[ndarray, "objects rows cols"] | None = None
    boxes: Float[ndarray, "objects 4"] | None = None
    ignore: Bool[ndarray, "rows cols"] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = (self.image.height, self.image.width)
        for name in ("masks", "ignore"):
            value = getattr(self, name)
            if value is not None and value.shape[-2:] != size:
                raise DataError(
                    f"{self.id}: the {name} are {value.shape[-2]}×{value.shape[-1]}, the picture "
                    f"{size[0]}×{size[1]}; check that image and annotation belong together"
                )
        for name in ("masks", "boxes"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.labels):
                raise DataError(f"{self.id}: {len(value)} {name} for {len(self.labels)} labels; give one for each")
        for box in () if self.boxes is None else self.boxes.tolist():
            left, top, right, bottom = box
            if not (left <= right and top <= bottom and np.isfinite(box).all()):
                raise DataError(f"{self.id}: the box {box} is not left, top, right, bottom; correct the annotation")

    def __repr__(self) -> str:
        held = ", ".join(name for name in ("masks", "boxes", "ignore") if getattr(self, name) is not None)
        return (
            f"{type(self).__name__}({self.id!r}, {self.image.width} × {self.image.height} px, labels {self.labels}"
            f"{', with ' + held if held else ''})"
        )

    def mask_of(self, label: int) -> Bool[ndarray, "rows cols"]:
        """The union of the objects of a class; empty where there is none."""
        rows = [
            mask
            for mask, own in zip(() if self.masks is None else self.masks, self.labels, strict=False)
            if own == label
        ]
        return np.any(rows, axis=0) if rows else np.zeros((self.image.height, self.image.width), dtype=bool)


class Dataset(Sequence):  # not Sequence[Item]: beartype would read a random item to check the type
    """Items by number; subclasses register with `@dataset(...)` and implement `ids` and `read`.

    Building one reads lists and annotations only; a picture is read when its item is asked for, so that a corrupt file
    costs only itself. Nothing is ever downloaded.
    """

    card: ClassVar[DatasetCard]
    class_names: tuple[str, ...] = ()
    split: str = ""

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The ids of all items, in order, without reading pictures."""

    @abstractmethod
    def read(self, index: int) -> Item:
        """The item of that number, 0 ≤ index < len(self).

        Raises:
            ImageError, DataError: its picture or annotation is missing or broken.
        """

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self.read(index % len(self))


def expect(root: str | Path, *files: str, card: DatasetCard) -> Path:
    """The folder, if the files (shell patterns, relative to it) are there.

    Raises:
        DataError: they are not; the message says which, what the layout is and where the data come from.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; {card.title} needs one with {', '.join(card.layout)} ({card.source})")
    missing = [pattern for pattern in files if next(folder.glob(pattern), None) is None]
    if missing:
        raise DataError(
            f"{folder} is not laid out as {card.title}: no {', '.join(missing)}; "
            f"expected {', '.join(card.layout)} ({card.source})"
        )
    return folder


def spread(wanted: int | None, length: int, seed: int = 0) -> list[int]:
    """Which items a run of `wanted` looks at: all, or a seeded choice, in order."""
    if wanted is None or wanted >= length:
        return list(range(length))
    return sorted(np.random.default_rng(seed).permutation(length)[:wanted].tolist())
