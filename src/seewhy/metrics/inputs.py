"""Inputs of metrics beside the maps, and the checks that they fit them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seewhy.core.cards import REQUIREMENT_TEXT, MetricCard, Requirement
from seewhy.errors import OptionError
from seewhy.methods.base import Method
from seewhy.models.adapter import VisionModel
from seewhy.targets import Target, TargetLike

T = TypeVar("T")

ROW_FIELDS = ("masks", "objects", "valid", "boxes", "labels", "contrast_maps")
"""The fields of `MetricInputs` with one entry for each map; the others are about the images and the model."""


class ModelInputs(NamedTuple):
    """A model, its preprocessed input and the settled target.

    Attributes:
        model: The model.
        x: Its input, one row for each map.
        target: What was explained; it does not depend on the model's answer any more.
    """

    model: VisionModel
    x: Float[Tensor, "batch channels height width"]
    target: Target


@dataclass(eq=False)
class MetricInputs:
    """Inputs of a metric beside the maps; one object serves all maps (of any method) of the same images.

    Attributes:
        masks: The object that each map should show, at the maps' size.
        objects: For each image, one mask for each of its objects.
        valid: Pixels that count; elsewhere (a border that nobody labeled) neither map nor mask is looked at, but a NaN
            anywhere makes a map invalid.
        boxes: For each image, the boxes of the objects that the map should show: left, top, right, bottom in pixels
            of the map, right and bottom not included.
        model: The model that was explained.
        x: Its preprocessed input.
        target: What was explained; settled by one forward pass if it depends on the model's answer.
        labels: The true class of each image (the class of the object in `masks`), as the model counts; -1: unknown.
        contrast_maps: For each map the same method's map for another class that the image shows; NaN where there is
            none.
        method: The method that made the maps, configured.
        cache: Results about the images and their targets that several metrics or several maps share (`cached`).
    """

    masks: Bool[Tensor, "batch rows cols"] | None = None
    objects: Sequence[Bool[Tensor, "_ rows cols"]] | None = None
    valid: Bool[Tensor, "batch rows cols"] | None = None
    boxes: Sequence[Float[Tensor, "_ 4"]] | None = None
    model: VisionModel | None = None
    x: Float[Tensor, "batch channels height width"] | None = None
    target: TargetLike = None
    labels: Int[Tensor, "batch"] | None = None
    contrast_maps: Float[Tensor, "batch rows cols"] | None = None
    method: Method | None = None
    cache: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any])

    def __post_init__(self) -> None:
        if self.model is not None and self.x is not None:
            target = self.model.as_target(self.target)
            if target.depends_on_output:
                target = target.fixed(self.model.forward_checked(self.x))
            self.target = target

    @property
    def available(self) -> frozenset[Requirement]:
        """The requirements of a metric that are met."""
        values = {
            Requirement.MASK: self.masks,
            Requirement.OBJECTS: self.objects,
            Requirement.BOXES: self.boxes,
            Requirement.LABEL: self.labels,
            Requirement.MODEL: None if self.x is None else self.model,
            Requirement.CONTRAST: self.contrast_maps,
            Requirement.METHOD: self.method,
        }
        return frozenset(requirement for requirement, value in values.items() if value is not None)

    @property
    def model_inputs(self) -> ModelInputs:
        """The model with its input and the settled target.

        Raises:
            OptionError: When the model or its input was not given.
        """
        if self.model is None or self.x is None or not isinstance(self.target, Target):
            raise OptionError(f"the metric needs {REQUIREMENT_TEXT[Requirement.MODEL]}; pass model=, x= and target=")
        return ModelInputs(self.model, self.x, self.target)

    def cached(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return `compute()`, or what it returned the first time for this key."""
        if key not in self.cache:
            self.cache[key] = compute()
        value: T = self.cache[key]
        return value

    def select(self, rows: list[int]) -> MetricInputs:
        """Return the inputs for other rows of maps of the same images.

        What the model said of the images (`x`, `cache`) stays: it does not depend on the maps.
        """
        return replace(self, **{name: select_rows(getattr(self, name), rows) for name in ROW_FIELDS})


def select_rows(value: Any, rows: list[int]) -> Any:
    """Return some rows of a tensor or of a list, and None for None."""
    if value is None or isinstance(value, Tensor):
        return None if value is None else value[rows]
    return [value[i] for i in rows]


def required(value: T | None, name: str) -> T:
    """Return an input that the metric's card asks for, as one that is not None.

    `Metric.measure` checks the card's requirements first, so that only a direct call of `score` can fail here.

    Raises:
        OptionError: When it was not given.
    """
    if value is None:
        raise OptionError(f"the metric needs {name}; pass {name}= to the call")
    return value


# ── checks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_inputs(card: MetricCard, maps: Tensor, inputs: MetricInputs) -> None:
    """Check that everything the metric needs was given and fits the maps.

    Raises:
        OptionError: When something is missing, or has another size, batch or type.
    """
    if not isinstance(maps, Tensor) or maps.ndim != 3 or not len(maps) or not maps.is_floating_point():
        got = f"{maps.dtype} {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        volume = "; of a volume pass one slice at a time" if isinstance(maps, Tensor) and maps.ndim == 4 else ""
        raise OptionError(
            f"a metric takes float maps (B, rows, cols), not {got}; pass one or more, un-normalized{volume}"
        )
    missing = [REQUIREMENT_TEXT[requirement] for requirement in sorted(card.needs - inputs.available)]
    if missing:
        raise OptionError(f"{card.title} needs {' and '.join(missing)}; pass it to the call")
    _check_counts(inputs, len(maps))
    _check_shapes(inputs, maps)
    if inputs.labels is not None and not isinstance(inputs.labels, Tensor):
        raise OptionError(f"labels are a {type(inputs.labels).__name__}; pass a tensor of class numbers, -1 if unknown")
    if Requirement.MODEL in card.needs:
        x = inputs.model_inputs.x
        if len(x) != len(maps) or x.shape[-2:] != maps.shape[-2:]:
            raise OptionError(
                f"the input has the shape {tuple(x.shape)}, the maps {tuple(maps.shape)}; "
                "resize the maps to the input's size first (seewhy.metrics.resize_maps)"
            )


def _check_counts(inputs: MetricInputs, batch: int) -> None:
    for name in ("objects", "boxes", "labels"):
        value = getattr(inputs, name)
        if value is not None and len(value) != batch:
            raise OptionError(f"{name} are for {len(value)} images, the maps for {batch}; pass one for each map")


def _check_shapes(inputs: MetricInputs, maps: Tensor) -> None:
    for name in ("masks", "valid", "contrast_maps"):
        value = getattr(inputs, name)
        if value is not None:
            _check_pixels(name, value, maps.shape, boolean=name != "contrast_maps")
    for i, masks in enumerate(() if inputs.objects is None else inputs.objects):
        _check_pixels(f"objects[{i}]", masks, (len(masks), *maps.shape[1:]), boolean=True)


def _check_pixels(name: str, value: Any, shape: tuple[int, ...], boolean: bool) -> None:
    """Refuse masks of numbers: 255 may mean an object or an unlabeled pixel, and `~` of 1 is 254."""
    if not isinstance(value, Tensor) or (value.dtype == torch.bool) != boolean:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(f"{name} are {got}; pass a tensor of {'bools, such as masks == 1' if boolean else 'floats'}")
    if value.shape != shape:
        raise OptionError(
            f"{name} have the shape {tuple(value.shape)}, not {tuple(shape)}; "
            "resize the maps first (seewhy.metrics.resize_maps)"
        )


def find_invalid_rows(
    maps: Float[Tensor, "batch rows cols"],
    inputs: MetricInputs,
    needs: frozenset[Requirement],
    undefined: Mapping[str, Bool[Tensor, "batch"]],
) -> dict[int, str]:
    """Return the rows that cannot be scored, with the first reason for each, in one synchronization with the device.

    Args:
        maps: The maps.
        inputs: What is known beside them.
        needs: What the metric's card asks for.
        undefined: Rows for which the metric's own formula has no value, by the reason.
    """
    flags = {"the map holds NaN or infinity": ~torch.isfinite(maps).flatten(1).all(1)}
    if Requirement.MASK in needs:
        masks = required(inputs.masks, "masks")
        valid_masks = masks if inputs.valid is None else masks & inputs.valid
        flags["the mask is empty"] = ~valid_masks.flatten(1).any(1)
    if Requirement.CONTRAST in needs:
        contrast = required(inputs.contrast_maps, "contrast_maps")
        flags["the image shows no second class"] = ~torch.isfinite(contrast).flatten(1).all(1)
    if Requirement.LABEL in needs:
        flags["the true class is not known"] = required(inputs.labels, "labels") < 0
    flags.update(undefined)
    table = torch.stack([flag.to(maps.device) for flag in flags.values()]).tolist()
    reasons: dict[int, str] = {}
    for reason, row in zip(flags, table, strict=True):
        for i, invalid in enumerate(row):
            if invalid:
                reasons.setdefault(i, reason)
    if Requirement.OBJECTS in needs:
        objects = required(inputs.objects, "objects")
        reasons.update({i: "the image has no objects" for i, masks in enumerate(objects) if not len(masks)})
    if Requirement.BOXES in needs:
        all_boxes = required(inputs.boxes, "boxes")
        reasons.update({i: "the image has no boxes" for i, boxes in enumerate(all_boxes) if not len(boxes)})
    return reasons


__all__ = [
    "ROW_FIELDS",
    "MetricInputs",
    "ModelInputs",
    "check_inputs",
    "find_invalid_rows",
    "required",
    "select_rows",
]
