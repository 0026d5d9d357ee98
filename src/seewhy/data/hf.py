"""Hugging Face `datasets`: one that is in memory, or that `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from seewhy.core.boxes import masks_to_boxes
from seewhy.core.cards import Requirement
from seewhy.core.deep import DeepImage
from seewhy.core.images import image_formats
from seewhy.core.io import first_line
from seewhy.data.base import Dataset, Sample, check_layout, dataset
from seewhy.data.masks import read_levels
from seewhy.data.reading import read_both
from seewhy.errors import DataError, ImageError, OptionError, require, suggestion

Column = str | tuple[str, ...]
FORMATS = ("xywh", "xyxy")
UNLABELED = -1  # what `datasets` writes for the withheld labels of a test split


@dataset(
    name="hf",
    title="Hugging Face datasets",
    summary="A `datasets.Dataset` in memory or saved to disk; its columns are named by options.",
    splits=("train", "validation", "test"),
    layout=("state.json, dataset_info.json and *.arrow", "or dataset_dict.json and such a folder for each split"),
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    source="https://huggingface.co/datasets: datasets.load_dataset(…).save_to_disk(…), before",
    citation="Lhoest et al.: Datasets: A Community Library for Natural Language Processing, EMNLP 2021",
)
class HFDataset(Dataset):
    """The rows of a `datasets.Dataset` as samples. Nothing is downloaded; a name on the hub is refused.

    Images are decoded when their sample is read, as stored if the row has masks or boxes, else upright. A column
    inside another is a tuple: `("objects", "bbox")`, whether `objects` is a list of dicts or a dict of lists.

    Args:
        root: The dataset, a `DatasetDict`, or the folder that `save_to_disk` wrote.
        split: Which of several, by default the first; a single dataset's own name, where it has one.
        image: The column of images.
        label: Class numbers, one or a list; names come from its `ClassLabel`, other values are sorted. Without the
            column `label` there are no labels. Objects that outnumber a single label share it; where nothing tells
            the class of a mask or box, it is the one class `object`.
        mask: The column of images of numbers: 0 is background, `ignore` unlabeled.
        mask_values: `objects`: each number is one object, in the order of the labels; `classes`: number k is the class
            k − 1, and what is there of a class is one object.
        ignore: The number of pixels that nobody labeled, such as 255.
        boxes: The column of lists of four numbers.
        box_format: `xywh` (COCO: left, top, width, height) or `xyxy`. Boxes are cut at the image's edge.

    Raises:
        DataError: When there is no such folder, split or column.
        OptionError: When an option has a value that it does not accept.
        MissingExtraError: When a folder is given without the library `datasets`.
    """

    def __init__(
        self,
        root: Any,
        split: str | None = None,
        *,
        image: str = "image",
        label: Column | None = "label",
        mask: str | None = None,
        mask_values: str = "objects",
        ignore: int | None = None,
        boxes: Column | None = None,
        box_format: str = "xywh",
    ) -> None:
        if box_format not in FORMATS or mask_values not in ("objects", "classes"):
            raise OptionError(
                f"box_format={box_format!r} must be xywh or xyxy, mask_values={mask_values!r} objects or classes"
            )
        source = self._load(root) if isinstance(root, str | Path) else root
        self.split, rows = _select_split(source, split)
        self._image, self._mask, self._values, self._ignore = image, mask, mask_values, ignore
        self._boxes, self._xywh = boxes, box_format == "xywh"
        self._label = None if label == "label" and "label" not in rows.column_names else label
        for column in (image, self._label, mask, boxes):
            _check_column(rows, column)
        self._rows = _undecoded(rows, (image, *([mask] if mask else [])))
        self.class_names, self._index = self._classes()
        self._ids = tuple(f"{self.split}-{i}" if self.split else str(i) for i in range(len(self._rows)))

    def _load(self, root: str | Path) -> Any:
        folder = Path(root).expanduser()
        if not folder.exists():
            raise DataError(
                f"{root} is not a folder with a state.json, and nothing is downloaded; get it with "
                f"datasets.load_dataset({str(root)!r}).save_to_disk(folder), then pass that folder"
            )
        kind = "dataset_dict.json" if (folder / "dataset_dict.json").is_file() else "state.json"
        check_layout(folder, kind, card=self.card)
        try:
            return require("datasets", "datasets").load_from_disk(str(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder} cannot be opened ({first_line(error)}); save it again") from error

    @property
    def ids(self) -> Sequence[str]:
        """The row numbers, after the split's name where it has one."""
        return self._ids

    def read(self, index: int) -> Sample:
        """Read a sample."""
        row, name = self._rows[index], self._ids[index]
        image, deep = _decode(row[self._image], name, upright=not (self._mask or self._boxes))
        labels = tuple(self._index[_key(value)] for value in _values(row, self._label) if value != UNLABELED)
        masks = boxes = ignore = None
        if self._mask is not None:
            levels = read_levels(_content(row[self._mask], name), f"of {name}")
            ignore = None if self._ignore is None else levels == self._ignore
            labels, masks = self._objects(levels, labels, name)
        if self._boxes is not None:
            boxes = _corners(_values(row, self._boxes), self._xywh, image.size, name)
            labels = self._label_objects(labels, len(boxes), name)
        elif masks is not None:
            boxes = masks_to_boxes(masks)
        if masks is None and boxes is None:
            labels = tuple(dict.fromkeys(labels))
        return Sample(name, image, labels, masks, boxes, ignore, deep=deep)

    def _objects(
        self, levels: ndarray, labels: tuple[int, ...], name: str
    ) -> tuple[tuple[int, ...], Bool[ndarray, "objects rows cols"]]:
        values = [int(v) for v in np.unique(levels) if v not in (0, self._ignore)]
        masks = np.stack([levels == v for v in values]) if values else np.zeros((0, *levels.shape), dtype=bool)
        if self._values == "objects":
            return self._label_objects(labels, len(values), name), masks
        if values and values[-1] > len(self.class_names):
            raise DataError(
                f"{name}: its mask has the number {values[-1]} of {len(self.class_names)} classes; pass "
                "ignore= if it means that nobody labeled it, or mask_values='objects'"
            )
        return tuple(v - 1 for v in values), masks

    def _label_objects(self, labels: tuple[int, ...], count: int, name: str) -> tuple[int, ...]:
        """Return one label for each object; a single label is that of all."""
        if len(labels) == 1:
            return labels * count
        if self.class_names == ("object",):
            return (0,) * count
        if len(labels) != count:
            raise DataError(
                f"{name} has {count} objects and {len(labels)} labels; pass the column with one for each as label="
            )
        return labels

    def _classes(self) -> tuple[tuple[str, ...], dict[Any, int]]:
        """Return the names, and the index of each value of the label column; read it where nothing names them."""
        if self._label is None:
            return (("object",) if self._mask or self._boxes else ()), {}
        names = _class_label_names(self._rows.features, self._label)
        if names:
            return tuple(names), {i: i for i in range(len(names))}
        first = self._label if isinstance(self._label, str) else self._label[0]
        present = {_key(v) for row in self._rows.select_columns([first]) for v in _values(row, self._label)}
        ordered = sorted(present, key=lambda key: (isinstance(key, str), key))
        return tuple(map(str, ordered)), {key: i for i, key in enumerate(ordered)}


def _select_split(source: Any, split: str | None) -> tuple[str, Any]:
    """Return the split's name and rows."""
    if isinstance(source, Mapping):
        name = next(iter(source), None) if split is None else split
        if name not in source:
            raise OptionError(f"no split {name!r}; choose from {', '.join(map(str, source)) or 'none: it is empty'}")
        return str(name), source[name]
    if not hasattr(source, "column_names") or not hasattr(source, "__len__"):  # an IterableDataset has none
        raise DataError(
            f"a {type(source).__name__} is not a datasets.Dataset that can be read by number; pass one, or a "
            "folder that save_to_disk wrote"
        )
    name = str(source.split) if source.split is not None else ""
    if split is not None and name and split != name:
        raise OptionError(f"this dataset is the split {name!r}, not {split!r}; leave split out")
    return name or split or "", source


def _check_column(rows: Any, column: Column | None) -> None:
    first = column[0] if isinstance(column, tuple) else column
    if first is not None and first not in rows.column_names:
        raise DataError(
            f"there is no column {first!r}{suggestion(first, rows.column_names)}; pass image=, label=, "
            "mask= or boxes= by their names"
        )


def _undecoded(rows: Any, columns: tuple[str, ...]) -> Any:
    """Return the rows with images as bytes: one that is broken costs its own sample only."""
    image_feature = require("datasets", "datasets").Image
    for column in columns:
        if isinstance(rows.features[column], image_feature):
            rows = rows.cast_column(column, image_feature(decode=False))
    return rows.with_format(None)


def _content(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None:
        raise DataError(f"{name} has no image in a column that should hold one; save the dataset again")
    return value


def _decode(value: Any, name: str, upright: bool) -> tuple[Image.Image, DeepImage | None]:
    content = _content(value, name)
    if isinstance(content, list):
        content = np.asarray(content, dtype=np.uint8)
    if not isinstance(content, bytes):
        return read_both(content, upright)
    try:
        opened = Image.open(BytesIO(content), formats=image_formats())
    except Exception as error:  # format plugins raise anything on broken headers
        raise ImageError(f"the image of {name} cannot be read ({type(error).__name__}); get it again") from error
    return read_both(opened, upright)


def _values(row: Mapping[str, Any], column: Column | None) -> list[Any]:
    """Return the content of a column as a list; of a list of dicts or a dict of lists, the inner one."""
    if column is None:
        return []
    value: Any = row
    for name in (column,) if isinstance(column, str) else column:
        value = [part[name] for part in value] if isinstance(value, list) else value[name]
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]


def _key(value: Any) -> Any:
    return value if isinstance(value, str | int) else str(value)


def _class_label_names(features: Any, column: Column) -> list[str] | None:
    """Return the names of the `ClassLabel` at the column, through lists."""
    for name in (column,) if isinstance(column, str) else column:
        features = _element(features)
        if not isinstance(features, Mapping) or name not in features:
            return None
        features = features[name]
    return getattr(_element(features), "names", None)


def _element(feature: Any) -> Any:
    """Return the feature of a list's elements."""
    while isinstance(feature, list) or hasattr(feature, "feature"):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return feature


def _corners(values: list[Any], xywh: bool, size: tuple[int, int], name: str) -> Float[ndarray, "objects 4"]:
    try:
        boxes = np.asarray(values, dtype=np.float64).reshape(-1, 4)
    except (ValueError, TypeError):
        raise DataError(f"the boxes of {name} are not lists of four numbers; pass their column as boxes=") from None
    if xywh:
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return boxes.clip(0, [*size, *size])
