"""What is scored: one entry for each picture and class, seen as the model sees the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from torch import Tensor

from seewhy.bench.plan import Protocol
from seewhy.core.boxes import masks_to_boxes
from seewhy.core.cards import Capability
from seewhy.data.base import Dataset, Item
from seewhy.errors import ModelError, OptionError, SeewhyError
from seewhy.metrics import MetricInputs
from seewhy.models.adapter import VisionModel
from seewhy.targets import Output, class_index


@dataclass(frozen=True)
class Entry:
    """One map to be scored.

    Attributes:
        row: which picture of the chunk.
        label: the class as the data set counts; None where the model's own answer is explained.
        cls: the class as the model counts; None for a model without classes.
        name: what a person calls the class.
    """

    row: int
    label: int | None
    cls: int | None
    name: str


def class_map(data: Dataset, model: VisionModel, must: bool = True) -> list[int] | None:
    """For each class of the data set the model's class: by name, or by number where names are missing.

    Raises:
        OptionError: they cannot be brought together (None, if they need not).
    """
    if Capability.LOGITS not in model.capabilities:
        return None
    known, asked = model.class_names, data.class_names
    try:
        if known and asked:
            return [class_index(name, known) if not name.strip().isdigit() else known.index(name) for name in asked]
    except (SeewhyError, ValueError) as error:
        why = f"the data set's classes are not the model's ({error})"
    else:
        if asked and model.classes == len(asked):
            return list(range(len(asked)))
        why = f"the data set has {len(asked)} classes, the model {model.classes}, and their names are not known"
    if must:
        raise OptionError(f'{model.name} on {data.card.title}: {why}; use target = "prediction" in [protocol]')
    return None


def seen(
    model: VisionModel, image: Image.Image, planes: Bool[ndarray, "n h w"], size: tuple[int, int]
) -> Bool[ndarray, "n rows cols"]:
    """Masks of a picture as the model sees it: the nearest pixel to each cell's center; padding is False.

    Raises:
        ModelError: the model's preprocessing does not tell what it cuts out.
    """
    left, top, right, bottom = _box(model, image)
    ys = np.floor(top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int)
    xs = np.floor(left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int)
    height, width = planes.shape[1:]
    inside = ((ys >= 0) & (ys < height))[:, None] & ((xs >= 0) & (xs < width))
    return planes[:, ys.clip(0, height - 1)][:, :, xs.clip(0, width - 1)] & inside


def seen_boxes(
    model: VisionModel, image: Image.Image, boxes: Float[ndarray, "n 4"], size: tuple[int, int]
) -> Float[ndarray, "some 4"]:
    """Boxes in cells of the map; what the model does not see is cut off, and boxes that it does not see are left out.

    Raises:
        ModelError: as `seen`.
    """
    left, top, right, bottom = _box(model, image)
    scale = np.array([size[1] / (right - left), size[0] / (bottom - top)] * 2)
    moved = (np.asarray(boxes, float).reshape(-1, 4) - [left, top, left, top]) * scale
    moved = moved.clip(0, [size[1], size[0]] * 2)
    return moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])]


def _box(model: VisionModel, image: Image.Image) -> tuple[float, float, float, float]:
    if not hasattr(model.preprocess, "box"):
        raise ModelError(
            f"{model.name} has its own preprocess function, which does not tell what it cuts out; "
            "wrap(module, preprocess=Preprocess(…))"
        )
    return model.preprocess.box(image)


@dataclass(eq=False)
class Chunk:
    """Pictures that go through the model together, and everything that all methods and metrics share of them.

    Args:
        items: position in the data set and item.
        classes: as `class_map` gives them.
        contrast_maps: whether some metric needs maps for other classes that a picture shows.
    """

    model: VisionModel
    data: Dataset
    protocol: Protocol
    classes: list[int] | None
    items: Sequence[tuple[int, Item]]
    contrast_maps: bool = False
    _given: dict[tuple[int, int], MetricInputs] = field(default_factory=dict)

    @cached_property
    def x(self) -> Float[Tensor, "items channels height width"]:
        return self.model.preprocess_batch([item.image for _, item in self.items])

    @cached_property
    def output(self) -> Output:
        """The model's answer, from one forward."""
        return self.model.forward_checked(self.x)

    @property
    def input_size(self) -> tuple[int, int]:
        return tuple(self.x.shape[-2:])

    @cached_property
    def entries(self) -> list[Entry]:
        if self.protocol.target == "prediction":
            return [Entry(row, None, cls, self._name(cls)) for row, cls in enumerate(self._answers())]
        return [
            Entry(row, label, self._cls(label), self._own_name(label))
            for row, (_, item) in enumerate(self.items)
            for label in list(dict.fromkeys(item.labels))[: 1 if self.protocol.target == "first" else None]
        ]

    @cached_property
    def pairs(self) -> list[tuple[int, int | None]]:
        """(picture, class) of every map that is needed: those of the entries, then contrast_maps that are no entry."""
        own = [(e.row, e.cls) for e in self.entries]
        return own + [pair for pair in dict.fromkeys(self.rival_pairs) if pair is not None and pair not in own]

    @cached_property
    def rival_pairs(self) -> list[tuple[int, int] | None]:
        """For each entry the next other class that the picture shows."""
        return [self._rival(entry) if self.contrast_maps else None for entry in self.entries]

    def given(self, size: tuple[int, int]) -> MetricInputs:
        """What metrics are told at a size; the same object each time."""
        if size not in self._given:
            self._given[size] = self._make_given(size)
        return self._given[size]

    def outline(self, row: int) -> Bool[ndarray, "rows cols"] | None:
        """All objects of a picture together, at the input's size."""
        _, item = self.items[row]
        if item.masks is None or not hasattr(self.model.preprocess, "box"):
            return None
        return seen(self.model, item.image, item.masks, self.input_size).any(0)

    # ── classes ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _answers(self) -> list[int | None]:
        if Capability.LOGITS not in self.model.capabilities:
            return [None] * len(self.items)
        return self.output.logits.argmax(1).tolist()

    def _cls(self, label: int) -> int | None:
        return None if self.classes is None else self.classes[label]

    def _name(self, cls: int | None) -> str:
        names = self.model.class_names
        return "" if cls is None else names[cls] if names and cls < len(names) else f"class {cls}"

    def _own_name(self, label: int) -> str:
        names = self.data.class_names
        return names[label] if label < len(names) else f"class {label}"

    def _rival(self, entry: Entry) -> tuple[int, int] | None:
        labels = list(dict.fromkeys(self.items[entry.row][1].labels))
        if self.classes is None or not labels:
            return None
        start = labels.index(entry.label) + 1 if entry.label is not None else 0
        ahead = [self.classes[label] for label in labels[start:] + labels[:start]]
        return next(((entry.row, cls) for cls in ahead if cls != entry.cls), None)

    # ── what is known beside the maps ─────────────────────────────────────────────────────────────────────────────
    def _make_given(self, size: tuple[int, int]) -> MetricInputs:
        facts = [_Facts.of(self.model, item, size) for _, item in self.items]
        device, entries = self.x.device, self.entries
        rows = [e.row for e in entries]
        some = {name: any(getattr(f, name) is not None for f in facts) for name in ("masks", "boxes", "ignore")}
        empty = np.zeros(size, bool)

        def put(values: list[Any]) -> Tensor:
            return torch.from_numpy(np.stack(values)).to(device)

        at_input = size == self.input_size
        return MetricInputs(
            masks=put([facts[e.row].mask_of(e.label, empty) for e in entries]) if some["masks"] else None,
            objects=[
                put(list(facts[r].shown))
                if len(facts[r].shown)
                else torch.zeros((0, *size), dtype=torch.bool, device=device)
                for r in rows
            ]
            if some["masks"]
            else None,
            valid=put([~(empty if facts[r].ignore is None else facts[r].ignore) for r in rows])
            if some["ignore"]
            else None,
            boxes=[torch.from_numpy(facts[e.row].boxes_of(e.label)).float().to(device) for e in entries]
            if some["boxes"]
            else None,
            model=self.model if at_input else None,
            x=self.x[rows] if at_input else None,
            target=None if entries[0].cls is None else [e.cls for e in entries],
            labels=torch.tensor([self._truth(e) for e in entries], device=device),
        )

    def _truth(self, entry: Entry) -> int:
        if entry.label is not None:
            return -1 if entry.cls is None else entry.cls
        labels = dict.fromkeys(self.items[entry.row][1].labels)
        known = [] if self.classes is None else [self.classes[label] for label in labels]
        return entry.cls if entry.cls in known else known[0] if known else -1


@dataclass(eq=False)
class _Facts:
    """What is true of one picture, in cells of the map."""

    labels: tuple[int, ...]
    masks: Bool[ndarray, "objects rows cols"] | None
    ignore: Bool[ndarray, "rows cols"] | None
    boxes: list[Float[ndarray, "some 4"]] | None

    @classmethod
    def of(cls, model: VisionModel, item: Item, size: tuple[int, int]) -> _Facts:
        masks = None if item.masks is None else seen(model, item.image, item.masks, size)
        ignore = None if item.ignore is None else seen(model, item.image, item.ignore[None], size)[0]
        boxes = item.boxes
        if boxes is None and item.masks is not None:
            boxes = masks_to_boxes(item.masks)
        own = None if boxes is None else [seen_boxes(model, item.image, box[None], size) for box in boxes]
        return cls(item.labels, masks, ignore, own)

    @property
    def shown(self) -> Bool[ndarray, "some rows cols"]:
        """The objects of which the model sees something."""
        return np.zeros((0, 1, 1), bool) if self.masks is None else self.masks[self.masks.any((1, 2))]

    def mask_of(self, label: int | None, empty: ndarray) -> Bool[ndarray, "rows cols"]:
        rows = [
            mask
            for mask, own in zip(() if self.masks is None else self.masks, self.labels, strict=False)
            if label is None or own == label
        ]
        return np.any(rows, axis=0) if rows else empty

    def boxes_of(self, label: int | None) -> Float[ndarray, "some 4"]:
        rows = [box for box, own in zip(self.boxes or (), self.labels, strict=False) if label is None or own == label]
        return np.concatenate(rows) if rows else np.zeros((0, 4))
