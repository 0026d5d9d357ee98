"""A folder of one's own images, with masks and labels where there are any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from seewhy.core.boxes import masks_to_boxes
from seewhy.core.cards import Requirement
from seewhy.core.class_names import find_class
from seewhy.core.imagenet import imagenet_classes, imagenet_wnids
from seewhy.core.images import image_paths
from seewhy.data.base import Dataset, Sample, check_layout, dataset
from seewhy.data.masks import read_levels
from seewhy.data.reading import check_choice, check_unique, read_both, read_table
from seewhy.errors import DataError, ImageError, OptionError, SeewhyError

LABEL = re.compile(r"(label|class)_?\d*(_?name)?", re.IGNORECASE)
LOSSY = (".jpg", ".jpeg", ".webp")
MAX_VALUES = 32
"""Of objects, in a mask that also has 255; more are soft edges."""


@dataset(
    name="folder",
    title="A folder of images",
    summary="Your own images; masks and classes where you have them.",
    splits=("all",),
    layout=(
        "images/ (or the images in the folder itself)",
        "masks/<same name>.png (optional)",
        "labels.csv: file, label (optional; else images/<class>/*)",
    ),
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    source="made by you",
    citation="",
)
class Folder(Dataset):
    """Images below `images/` (without it: below the folder itself), upright, each with what is known of it.

    Masks: `masks/` holds a file of the same path for each image, of any suffix; an image without one has none.
    0 is background. A file with one other value (0 and 255), and every JPEG or WebP (where the value is ≥ 128),
    holds one object; else each value is an object of its own, and value k has the k-th label. A mask with soft edges
    (more than 32 values up to 255) is refused.

    Labels: `labels.csv` has a column `file` (from the folder or from `images/`), and `label`, or `label1`, `label2` …
    (`class1_name` … too) for the object of each mask value; with one label all objects have it. Empty cells do not
    count, and images without a row are left out. A column `mask` names the mask file where it is elsewhere. Without
    `labels.csv` the sub-folders of `images/` are classes, and without those a masked object has the one class `object`.

    Args:
        root: The folder.
        split: There is one, `all`.
        classes: The class names in index order; `imagenet` for those of ImageNet-1k, where folders may be WordNet ids
            and columns `class1_index` … are the indices; by default the names that occur, sorted.

    Raises:
        DataError: When there are no images or two masks for one, or labels.csv names files or classes that do not
            exist, or a file twice.
        OptionError: When there is no such split.
    """

    def __init__(self, root: str | Path, split: str = "all", *, classes: str | Sequence[str] | None = None) -> None:
        self.root = check_layout(root, card=self.card)
        check_choice("split", split, self.card.splits)
        self.split = split
        subfolder = self.root / "images"
        self._images = subfolder if subfolder.is_dir() else self.root
        try:
            paths = image_paths(self._images)
        except ImageError:
            raise DataError(f"no images below {self._images}; expected {', '.join(self.card.layout)}") from None
        if self._images == self.root:
            paths = [path for path in paths if path.relative_to(self.root).parts[0] != "masks"]
        self._rows = self._read_rows(classes == "imagenet") if (self.root / "labels.csv").is_file() else None
        self._files = {path.relative_to(self._images).as_posix(): path for path in paths}
        if self._rows is not None:
            self._files = {name: path for name, path in self._files.items() if name in self._rows}
        self._ids = tuple(self._files)
        self._label_names = {name: self._labels_of(name) for name in self._files}
        self.class_names, self._index = _classes(classes, self._label_names, any(self._masks))

    @property
    def ids(self) -> Sequence[str]:
        """The paths below `images/`."""
        return self._ids

    def read(self, index: int) -> Sample:
        """Read a sample."""
        name = self._ids[index]
        image, deep = read_both(self._files[name])
        labels = tuple(self._index[label] for label in self._label_names[name])
        path = self._mask_path(name)
        if path is None:
            return Sample(name, image, tuple(dict.fromkeys(labels)), deep=deep)
        values, masks = _objects(read_levels(path), path)
        if not labels and self.class_names == ("object",):
            labels = (0,)
        labels = _per_object(labels, values, path)
        return Sample(name, image, labels, masks, masks_to_boxes(masks), deep=deep)

    def _read_rows(self, by_index: bool) -> dict[str, _Row]:
        """Read labels.csv, by the image's path below `images/`."""
        path = self.root / "labels.csv"
        rows = []
        for number, row in read_table(path, "file"):
            keys = _label_columns(list(row), by_index)
            if not keys:
                raise DataError(f"{path} has the columns {', '.join(row)}; it needs label (or label1, label2 …)")
            name = row["file"].removeprefix("./")
            inside = name if (self._images / name).is_file() else name.removeprefix("images/")
            if not inside or not (self._images / inside).is_file():
                raise DataError(
                    f"{path} line {number}: there is no image {name!r} in {self._images}; correct the column file"
                )
            labels = [row[key].strip() for key in keys if row[key].strip()]
            rows.append((inside, _Row(labels, row.get("mask", "").strip())))
        if not rows:
            raise DataError(f"{path} has no rows; add one for each image, or delete it")
        check_unique((name for name, _ in rows), path)
        return dict(rows)

    def _labels_of(self, name: str) -> list[str]:
        if self._rows is not None:
            return self._rows[name].labels
        return name.split("/")[:1] if "/" in name else []

    @cached_property
    def _masks(self) -> dict[str, Path]:
        """Mask files by their path below `masks/` without suffix."""
        folder = self.root / "masks"
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
        names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
        return dict(zip(check_unique(names, folder), paths, strict=True))

    def _mask_path(self, name: str) -> Path | None:
        listed = self._rows[name].mask if self._rows is not None else ""
        return self.root / listed if listed else self._masks.get(Path(name).with_suffix("").as_posix())


class _Row(NamedTuple):
    """A row of labels.csv."""

    labels: list[str]
    mask: str


def _label_columns(columns: Sequence[str], by_index: bool) -> list[str]:
    """Return the columns of the labels in the order of their objects; those of the indices if `by_index` and there."""
    indices = [c for c in columns if re.fullmatch(r"(label|class)\d*_index", c, re.IGNORECASE)]
    chosen = indices if by_index and indices else [c for c in columns if LABEL.fullmatch(c)]
    return sorted(chosen, key=lambda column: int("".join(filter(str.isdigit, column)) or 0))


def _classes(
    requested: str | Sequence[str] | None, labels: dict[str, list[str]], masked: bool
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the class names, and the index of whatever the labels call them."""
    present = sorted({label for names in labels.values() for label in names})
    if requested is None:
        every = tuple(present) or (("object",) if masked else ())
        return every, {name: i for i, name in enumerate(every)}
    if requested == "imagenet":
        every = imagenet_classes()
        index = {name: i for i, name in enumerate(every)}
        index |= {wnid: i for i, wnid in enumerate(imagenet_wnids())} | {str(i): i for i in range(len(every))}
    elif isinstance(requested, str):
        raise OptionError(f"classes={requested!r} is not a list of names; pass one, or classes='imagenet'")
    else:
        every = tuple(requested)
        index = {name: i for i, name in enumerate(every)}
    for name in present:
        if name not in index:
            try:
                index[name] = find_class(name, every)
            except SeewhyError as error:
                raise DataError(
                    f"the label {name!r} is none of the {len(every)} classes ({error}); correct it, or omit classes"
                ) from error
    return every, index


def _objects(levels: ndarray, path: Path) -> tuple[list[int], Bool[ndarray, "objects rows cols"]]:
    """Return the values of the objects in a mask file, and their masks; the one value of a binary file counts as 1."""
    values = [int(value) for value in np.unique(levels) if value]
    if path.suffix.lower() in LOSSY or values == [255]:
        return [1], (levels >= 128)[None]
    if len(values) > MAX_VALUES and values[-1] == 255:
        raise DataError(f"{path} holds {len(values)} values, as soft edges do; store 0 and 255, or a number per object")
    masks = [levels == value for value in values]
    return values, np.stack(masks) if masks else np.zeros((0, *levels.shape), dtype=bool)


def _per_object(labels: tuple[int, ...], values: list[int], path: Path) -> tuple[int, ...]:
    """Return the label of each mask value; a single label is that of all."""
    if len(labels) == 1 or not values + list(labels):
        return labels * len(values)
    if values != list(range(1, len(labels) + 1)):
        raise DataError(
            f"{path} holds the values {values or 'none'} for {len(labels)} labels; value k is the object "
            "of label k, so each needs its own"
        )
    return labels
