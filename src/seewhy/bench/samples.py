"""Image–target pairs of a batch of samples, and their ground truth in the model's view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from seewhy.bench.classes import find_named_class
from seewhy.bench.plan_file import Protocol
from seewhy.bench.view import boxes_in_model_view, has_known_view, mask_in_model_view
from seewhy.core.boxes import masks_to_boxes
from seewhy.core.cards import Capability
from seewhy.data.base import Dataset, Sample
from seewhy.metrics import MetricInputs
from seewhy.models.adapter import VisionModel
from seewhy.targets import Output

IndexedSample = tuple[int, Sample]
"""Position in the dataset, and the sample."""


@dataclass(frozen=True)
class ImageTarget:
    """One map to be scored: an image of a batch and the class that is explained.

    Attributes:
        row: Position of the image in the batch.
        label: The class as the dataset counts; None where all objects count, as for the model's own answer.
        class_index: The class as the model counts; None for a model without classes.
        name: Name of the class for people.
    """

    row: int
    label: int | None
    class_index: int | None
    name: str


def class_logits(output: Output) -> Float[Tensor, "batch classes"]:
    """Return the logits of a model that has classes."""
    assert output.logits is not None, "only a model with the capability LOGITS is asked"
    return output.logits


@dataclass(eq=False)
class SampleBatch:
    """Samples that go through the model together, and what all methods and metrics share of them.

    Attributes:
        model: The model.
        data: The dataset that the samples come from.
        protocol: The plan's protocol.
        classes: Result of `match_classes`.
        samples: Samples with their positions in the dataset.
        contrast_maps: Whether some metric needs maps for other classes that an image shows.
    """

    model: VisionModel
    data: Dataset
    protocol: Protocol
    classes: list[int] | None
    samples: Sequence[IndexedSample]
    contrast_maps: bool = False
    _metric_inputs: dict[tuple[int, int], MetricInputs] = field(default_factory=dict)

    @cached_property
    def x(self) -> Float[Tensor, "samples channels height width"]:
        """The model's input."""
        return self.model.preprocess_batch([sample.pixels for _, sample in self.samples])

    @cached_property
    def output(self) -> Output:
        """The model's output, from one forward."""
        return self.model.forward_checked(self.x)

    @property
    def input_size(self) -> tuple[int, int]:
        """Rows and columns of the model's input."""
        return self.x.shape[-2], self.x.shape[-1]

    @cached_property
    def targets(self) -> list[ImageTarget]:
        """The maps that are scored."""
        if self.protocol.rank:
            ranked = self._ranked(self.protocol.rank)
            return [ImageTarget(row, None, k, self._model_class_name(k)) for row, k in enumerate(ranked)]
        if self.protocol.class_name is not None:
            named = find_named_class(self.protocol.class_name, self.data, self.model, self.classes)
            return [ImageTarget(row, *named) for row in range(len(self.samples))]
        at_most = 1 if self.protocol.target == "first" else None
        return [
            ImageTarget(row, label, self._model_class(label), self._data_class_name(label))
            for row, (_, sample) in enumerate(self.samples)
            for label in _distinct(sample.labels)[:at_most]
        ]

    @cached_property
    def pairs(self) -> list[tuple[int, int | None]]:
        """(row, class) of every map that is computed: the targets first, then contrasts that are no target."""
        of_targets = [(target.row, target.class_index) for target in self.targets]
        contrasts = [pair for pair in dict.fromkeys(self.contrasts) if pair is not None]
        return of_targets + [pair for pair in contrasts if pair not in of_targets]

    @cached_property
    def contrasts(self) -> list[tuple[int, int] | None]:
        """For each target (row, class) of the next other class that the image shows, if a metric needs it."""
        return [self._contrast(target) if self.contrast_maps else None for target in self.targets]

    def metric_inputs(self, size: tuple[int, int]) -> MetricInputs:
        """Return the ground truth of all targets at a size of maps; the same object each time."""
        if size not in self._metric_inputs:
            self._metric_inputs[size] = self._build_metric_inputs(size)
        return self._metric_inputs[size]

    def union_mask(self, row: int) -> Bool[ndarray, "rows cols"] | None:
        """Return the union of all objects of an image at the input's size; None where it is not known."""
        _, sample = self.samples[row]
        if sample.masks is None or not has_known_view(self.model):
            return None
        masks = mask_in_model_view(self.model, sample.image, sample.masks, self.input_size)
        return np.any(masks, axis=0)

    # ── classes ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _ranked(self, rank: int) -> Sequence[int | None]:
        """Return the class that the model ranks so for each image; None for a model without classes."""
        if Capability.LOGITS not in self.model.capabilities:
            return [None] * len(self.samples)
        logits = class_logits(self.output)
        return logits.argmax(1).tolist() if rank == 1 else logits.topk(rank, dim=1).indices[:, -1].tolist()

    def _model_class(self, label: int) -> int | None:
        return None if self.classes is None else self.classes[label]

    def _model_class_name(self, index: int | None) -> str:
        if index is None:
            return ""
        names = self.model.class_names
        return names[index] if names and index < len(names) else f"class {index}"

    def _data_class_name(self, label: int) -> str:
        names = self.data.class_names
        return names[label] if label < len(names) else f"class {label}"

    def _contrast(self, target: ImageTarget) -> tuple[int, int] | None:
        labels = _distinct(self.samples[target.row][1].labels)
        if self.classes is None or not labels:
            return None
        start = labels.index(target.label) + 1 if target.label in labels else 0
        following = [self.classes[label] for label in labels[start:] + labels[:start]]
        return next(((target.row, k) for k in following if k != target.class_index), None)

    # ── ground truth ──────────────────────────────────────────────────────────────────────────────────────────────
    def _build_metric_inputs(self, size: tuple[int, int]) -> MetricInputs:
        truths = [_GroundTruth.of(self.model, sample, size) for _, sample in self.samples]
        pairs = [(truths[target.row], target.label) for target in self.targets]
        masks = objects = valid = boxes = None
        if any(truth.masks is not None for truth in truths):
            masks = self._stack([truth.mask_of(label) for truth, label in pairs])
            objects = [self._to_device(truth.visible_objects) for truth, _ in pairs]
        if any(truth.ignore is not None for truth in truths):
            valid = self._stack([truth.valid for truth, _ in pairs])
        if any(truth.boxes is not None for truth in truths):
            boxes = [self._to_device(truth.boxes_of(label).astype(np.float32)) for truth, label in pairs]
        at_input = size == self.input_size  # metrics that ask the model get maps of its input's size only
        return MetricInputs(
            masks=masks,
            objects=objects,
            valid=valid,
            boxes=boxes,
            model=self.model if at_input else None,
            x=self.x[[target.row for target in self.targets]] if at_input else None,
            target=self._target_classes(),
            labels=torch.tensor([self._true_class(target) for target in self.targets], device=self.x.device),
        )

    def _target_classes(self) -> list[int] | None:
        """Return the class of each target as the model counts; None for a model without classes."""
        classes = [target.class_index for target in self.targets if target.class_index is not None]
        return classes if len(classes) == len(self.targets) else None

    def _stack(self, planes: Sequence[ndarray]) -> Tensor:
        return self._to_device(np.stack(planes))

    def _to_device(self, values: ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.x.device)

    def _true_class(self, target: ImageTarget) -> int:
        """Return the class that the image truly shows, as the model counts; -1 if it is not known."""
        labels = _distinct(self.samples[target.row][1].labels)
        if target.label in labels:
            return -1 if target.class_index is None else target.class_index
        shown = [] if self.classes is None else [self.classes[label] for label in labels]
        if target.class_index in shown:
            return target.class_index
        return shown[0] if shown else -1


@dataclass(eq=False)
class _GroundTruth:
    """Masks and boxes of one sample in cells of a map.

    Attributes:
        labels: The class of each object, as the dataset counts.
        size: Rows and columns of the map.
        masks: One for each object; None where the sample has none.
        ignore: Cells that nobody labeled.
        boxes: For each object its box, or none where the model does not see it.
    """

    labels: tuple[int, ...]
    size: tuple[int, int]
    masks: Bool[ndarray, "objects rows cols"] | None
    ignore: Bool[ndarray, "rows cols"] | None
    boxes: list[Float[ndarray, "some 4"]] | None

    @classmethod
    def of(cls, model: VisionModel, sample: Sample, size: tuple[int, int]) -> _GroundTruth:
        image, masks, ignore, boxes = sample.image, None, None, None
        if sample.masks is not None:
            masks = mask_in_model_view(model, image, sample.masks, size)
        if sample.ignore is not None:
            ignore = mask_in_model_view(model, image, sample.ignore[None], size)[0]
        image_boxes = sample.boxes
        if image_boxes is None and sample.masks is not None:
            image_boxes = masks_to_boxes(sample.masks)
        if image_boxes is not None:
            boxes = [boxes_in_model_view(model, image, box[None], size) for box in image_boxes]
        return cls(sample.labels, size, masks, ignore, boxes)

    @property
    def valid(self) -> Bool[ndarray, "rows cols"]:
        """Cells that count."""
        return np.ones(self.size, bool) if self.ignore is None else ~self.ignore

    @property
    def visible_objects(self) -> Bool[ndarray, "some rows cols"]:
        """Masks of the objects of which the model sees something."""
        if self.masks is None:
            return np.zeros((0, *self.size), bool)
        return self.masks[self.masks.any((1, 2))]

    def mask_of(self, label: int | None) -> Bool[ndarray, "rows cols"]:
        """Return the union of the objects of a class, or of all objects; empty where there is none."""
        masks = [] if self.masks is None else list(self.masks)
        chosen = [mask for mask, own in zip(masks, self.labels, strict=False) if label is None or own == label]
        return np.any(chosen, axis=0) if chosen else np.zeros(self.size, bool)

    def boxes_of(self, label: int | None) -> Float[ndarray, "some 4"]:
        """Return the boxes of the objects of a class, or of all objects."""
        chosen = [box for box, own in zip(self.boxes or (), self.labels, strict=False) if label is None or own == label]
        return np.concatenate(chosen) if chosen else np.zeros((0, 4))


def _distinct(labels: Sequence[int]) -> list[int]:
    """Return each label once, in order of appearance."""
    return list(dict.fromkeys(labels))
