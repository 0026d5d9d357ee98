"""A metric, maps, and everything that can be known beside them: what each check of a metric works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from seewhy.checks.core import FEW, Check, batch_for, entered, few_repetitions, images, named
from seewhy.checks.method_case import output_of
from seewhy.core.cards import Capability, MetricCard, Requirement
from seewhy.methods import InputXGradient, Saliency
from seewhy.methods.base import Method
from seewhy.metrics.base import Measurement, Metric, MetricInputs
from seewhy.metrics.inputs import ROW_FIELDS, required, select_rows
from seewhy.models.adapter import VisionModel
from seewhy.targets import ClassTarget, Target

METRIC_CHECKS: list[tuple[str, Check]] = []
"""Every check of a metric as (name, check), filled by the decorator; `check(metric, model=None)`."""

FIELDS = {
    Requirement.MASK: "masks",
    Requirement.OBJECTS: "objects",
    Requirement.BOXES: "boxes",
    Requirement.LABEL: "labels",
    Requirement.CONTRAST: "contrast_maps",
    Requirement.METHOD: "method",
    Requirement.MODEL: "x",
}
"""The field of `MetricInputs` for each requirement."""

BATCH = 4
SIZE = (24, 32)
"""Rows and columns of the maps where no model tells."""

EXACT = 1e-6
"""How far apart two values may lie that should be equal, relative to the largest."""


@dataclass
class MetricCase:
    """A metric on maps and inputs, for one check.

    Attributes:
        metric: Configured, with few passes.
        maps: Multiples of 1/16 from −4 to 4, with ties: exact in bfloat16.
        known: All that a metric can be given for the images of the maps; the fields about the model are None where
            the check was given no model.
    """

    metric: Metric
    maps: Tensor
    known: MetricInputs

    @property
    def card(self) -> MetricCard:
        """The metric's card."""
        return self.metric.card

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the maps."""
        _, rows, cols = self.maps.shape
        return rows, cols

    @property
    def masks(self) -> Tensor:
        """The mask of each image."""
        return required(self.known.masks, "masks")

    @property
    def objects(self) -> Sequence[Tensor]:
        """The masks of each image's objects."""
        return required(self.known.objects, "objects")

    @property
    def boxes(self) -> Sequence[Tensor]:
        """The boxes of each image's objects."""
        return required(self.known.boxes, "boxes")

    @property
    def contrast_maps(self) -> Tensor:
        """A map for another class of each image."""
        return required(self.known.contrast_maps, "contrast_maps")

    @property
    def model(self) -> VisionModel:
        """The model of a metric that needs one."""
        return self.known.model_inputs.model

    @property
    def x(self) -> Tensor:
        """The input of the model of a metric that needs one."""
        return self.known.model_inputs.x

    def given(self, **changes: Any) -> MetricInputs:
        """Return all that is known, with an empty cache."""
        return replace(self.known, cache={}, **changes)

    def measure(self, maps: Tensor | None = None, metric: Metric | None = None, **changes: Any) -> Measurement:
        """Measure the maps, or others, with changed fields of `known`."""
        return (metric or self.metric).measure(self.maps if maps is None else maps, self.given(**changes))

    def rows(self, rows: list[int]) -> tuple[Tensor, MetricInputs]:
        """Return the maps of some of the images, and what is known of them."""
        known = self.known
        fields = {name: select_rows(getattr(known, name), rows) for name in (*ROW_FIELDS, "x")}
        target = known.target.at(rows) if isinstance(known.target, Target) else None
        return self.maps[rows], self.given(**fields, target=target)

    def skip_unless_needed(self, *requirements: Requirement) -> None:
        """Raise `SkipTest` unless the metric needs one of these."""
        if not self.card.needs & set(requirements):
            raise SkipTest(f"{self.card.title} does not need {' or '.join(requirements)}")

    def method_of(self, model: VisionModel) -> Method:
        """Return the method that made the maps, for a copy of the model."""
        return type(required(self.known.method, "method"))(model)

    @cached_property
    def plain(self) -> Measurement:
        """The measurement of the batch, computed once."""
        return self.measure()


def make_metric_case(
    metric: Metric | type[Metric],
    model: VisionModel | None,
    few: int = FEW,
    seed: int = 0,
    method: type[Method] | None = None,
) -> MetricCase:
    """Make the maps and all that can be known of them.

    Args:
        metric: A class, or configured.
        model: The model that a metric may need.
        few: The number of repetitions of the metric, where it has any.
        seed: Seed of the maps, masks and images.
        method: The method that made the maps; None: saliency.

    Raises:
        SkipTest: The metric needs a model, and there is none.
    """
    metric = metric() if isinstance(metric, type) else metric
    metric = type(metric)(**{**metric.options, **few_repetitions(type(metric), few)})
    if metric.card.needs & {Requirement.MODEL, Requirement.METHOD} and model is None:
        raise SkipTest(f"{metric.card.title} asks a model; pass one to the check")
    draws = torch.Generator().manual_seed(seed)
    x = None if model is None else batch_for(model, model.preprocess_images(images(BATCH, seed)))
    size = SIZE if x is None else (x.shape[-2], x.shape[-1])
    device = torch.device("cpu") if x is None else x.device
    labels = torch.arange(BATCH).to(device) % 3
    objects = [boxes_to_masks(boxes, size).to(device) for boxes in _boxes(draws, size)]
    known = MetricInputs(
        masks=torch.stack([each[0] for each in objects]),
        objects=objects,
        boxes=[b.to(device) for b in _boxes(torch.Generator().manual_seed(seed), size)],
        contrast_maps=random_maps(size, draws).to(device),
        labels=labels,
    )
    if model is not None and x is not None:
        width = output_of(model, x).require(Capability.LOGITS).shape[1]
        known = replace(
            known,
            model=model,
            x=x,
            target=ClassTarget(tuple(i % width for i in range(BATCH))),
            labels=labels % width,
            method=some_method(model) if method is None else method(model),
        )
    return MetricCase(metric, random_maps(size, draws).to(device), known)


def random_maps(size: tuple[int, int], draws: torch.Generator) -> Tensor:
    """Return multiples of 1/16 from −4 to 4; most values occur several times."""
    return (torch.randn(BATCH, *size, generator=draws) * 20).round().clamp(-64, 64) / 16


def _boxes(draws: torch.Generator, size: tuple[int, int]) -> list[Tensor]:
    """Return one or two boxes for each image, which cover a part of it."""
    made = []
    for i in range(BATCH):
        u = torch.rand(1 + i % 2, 4, generator=draws)
        left, top = (u[:, 0] * 0.5 * size[1]).floor(), (u[:, 1] * 0.5 * size[0]).floor()
        right, bottom = left + (0.2 + 0.25 * u[:, 2]) * size[1], top + (0.2 + 0.25 * u[:, 3]) * size[0]
        made.append(torch.stack([left, top, right.floor(), bottom.floor()], 1))
    return made


def boxes_to_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixels of each box, (boxes, rows, cols)."""
    rows, cols = torch.arange(size[0])[None, :, None], torch.arange(size[1])[None, None]
    left, top, right, bottom = (boxes[:, i, None, None] for i in range(4))
    return (cols >= left) & (cols < right) & (rows >= top) & (rows < bottom)


def some_method(model: VisionModel, number: int = 0) -> Method:
    """Return a class-specific method of one forward pass; `number` 0 and 1 are two different ones.

    Two fixed methods that need gradients and nothing else: choosing from the registry would configure methods whose
    optional packages may be missing.
    """
    return (Saliency, InputXGradient)[number](model)


def same(a: Measurement, b: Measurement, tolerance: float = 0.0, rows: list[int] | None = None) -> bool:
    """Tell whether values and parts are equal within a tolerance relative to the largest; NaN equals NaN."""
    pick = slice(None) if rows is None else rows
    pairs = [(a.value, b.value), *((a.parts[name], b.parts[name]) for name in a.parts if name in b.parts)]
    return all(
        torch.allclose(
            one[pick], two[pick], rtol=0, equal_nan=True, atol=tolerance * float(one.nan_to_num().abs().max())
        )
        for one, two in pairs
    )


@contextmanager
def forwards(model: VisionModel | None) -> Iterator[list[int]]:
    """Collect the batch size of each forward of the model's kind of module, copies included."""
    seen: list[int] = []
    kind = type(None) if model is None else type(model.module)

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, kind):
            seen.append(len(args[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def metric_check(fn: Callable[[MetricCase], None]) -> Check:
    """Make a public check of a function of a case, and put it on `METRIC_CHECKS`."""

    def check(metric: Metric | type[Metric], model: VisionModel | None = None) -> None:
        with named(metric.card.name, fn.__name__):
            fn(make_metric_case(metric, model))

    return entered(METRIC_CHECKS, fn, check)
