"""Base of datasets: samples with an image, its labels, and a mask and a box for each object where known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from seewhy.core.cards import DatasetCard, Requirement
from seewhy.core.deep import DeepImage
from seewhy.core.images import ReadImage
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
class Sample:
    """One image and everything that is true of it.

    Attributes:
        id: The same on every machine; a file name or number of the dataset's own.
        image: RGB.
        labels: The classes that are present, as indices into the dataset's `class_names`: one for each object where
            the sample has masks or boxes (a class may repeat), else each class once.
        masks: One for each object, at the image's size; None where nobody drew any.
        boxes: One for each object: left, top, right, bottom in pixels, right and bottom not included.
        ignore: Pixels that nobody labeled (VOC's border); they count neither as object nor as background.
        about: Whatever else is known (texture, biomarkers, author …), JSON-able.
        deep: The image with all its levels, where 8-bit RGB does not hold them.

    Raises:
        DataError: When masks, boxes and labels do not fit each other or the image, or a box is not ordered.
    """

    id: str
    image: Image.Image
    labels: tuple[int, ...] = ()
    masks: Bool[ndarray, "objects rows cols"] | None = None
    boxes: Float[ndarray, "objects 4"] | None = None
    ignore: Bool[ndarray, "rows cols"] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    deep: DeepImage | None = None

    def __post_init__(self) -> None:
        size = (self.image.height, self.image.width)
        for name in ("masks", "ignore"):
            value = getattr(self, name)
            if value is not None and value.shape[-2:] != size:
                raise DataError(
                    f"{self.id}: the {name} are {value.shape[-2]}×{value.shape[-1]}, the image "
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
        present = ", ".join(name for name in ("masks", "boxes", "ignore") if getattr(self, name) is not None)
        size = f"{self.image.width} × {self.image.height} px"
        suffix = f", with {present}" if present else ""
        return f"{type(self).__name__}({self.id!r}, {size}, labels {self.labels}{suffix})"

    @property
    def pixels(self) -> ReadImage:
        """What models are fed with: the image with all its levels."""
        return self.image if self.deep is None else self.deep

    def mask_of(self, label: int) -> Bool[ndarray, "rows cols"]:
        """Return the union of the objects of a class; empty where there is none."""
        union = np.zeros((self.image.height, self.image.width), dtype=bool)
        if self.masks is not None:
            for mask, other in zip(self.masks, self.labels, strict=True):
                if other == label:
                    union |= mask
        return union


if TYPE_CHECKING:
    _Samples = Sequence[Sample]
else:
    _Samples = Sequence  # beartype would read a sample to check that a dataset is a Sequence[Sample]


class Dataset(_Samples):
    """Samples by number; subclasses register with `@dataset(...)` and implement `ids` and `read`.

    Building one reads lists and annotations only; an image is read when its sample is, so that a corrupt file costs
    only itself. Nothing is ever downloaded.

    Attributes:
        card: What is known of the dataset before it is read.
        class_names: The classes in the order of the samples' labels.
        split: The part of the dataset that was asked for.
    """

    card: ClassVar[DatasetCard]
    class_names: tuple[str, ...] = ()
    split: str = ""

    @property
    @abstractmethod
    def ids(self) -> Sequence[str]:
        """The ids of all samples, in order, without reading images."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Read the sample of a number, 0 ≤ index < len(self).

        Raises:
            ImageError: When its image is missing or broken.
            DataError: When its annotation is missing or broken.
        """

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no sample {index} in {len(self)}; use 0 to {len(self) - 1}")
        return self.read(index % len(self))


def check_layout(root: str | Path, *files: str, card: DatasetCard) -> Path:
    """Check that files are there.

    Args:
        root: The dataset's folder.
        *files: Shell patterns, relative to it.
        card: The dataset's card.

    Returns:
        The folder.

    Raises:
        DataError: When one is missing; the message says which, what the layout is and where the data come from.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; {card.title} needs one with {', '.join(card.layout)} ({card.source})"
        )
    missing = [pattern for pattern in files if next(folder.glob(pattern), None) is None]
    if missing:
        raise DataError(
            f"{folder} is not laid out as {card.title}: no {', '.join(missing)}; "
            f"expected {', '.join(card.layout)} ({card.source})"
        )
    return folder


def sample_indices(wanted: int | None, length: int, seed: int = 0) -> list[int]:
    """Return the numbers of `wanted` samples of a dataset: all, or a seeded choice, in order."""
    if wanted is None or wanted >= length:
        return list(range(length))
    return sorted(np.random.default_rng(seed).permutation(length)[:wanted].tolist())
