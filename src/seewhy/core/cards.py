"""Cards: one frozen description per method, metric and dataset, from which everything else is derived.

The command line, the contract checks, the tests, the benchmark and the docs read these cards; there is no second list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Capability(StrEnum):
    """What a model can offer and a method or target can need."""

    LOGITS = "logits"
    EMBEDDING = "embedding"
    FEATURES = "features"
    TOKENS = "tokens"
    ATTENTION = "attention"
    CLASS_TOKEN = "class_token"
    LAST_BLOCK = "last_block"
    GRADIENTS = "gradients"


CAPABILITY_TEXT = {
    Capability.LOGITS: "class scores",
    Capability.EMBEDDING: "an embedding",
    Capability.FEATURES: "feature maps on a grid",
    Capability.TOKENS: "patch tokens by block",
    Capability.ATTENTION: "global attention matrices",
    Capability.CLASS_TOKEN: "a class token",
    Capability.LAST_BLOCK: "a last transformer block with a norm before its attention",
    Capability.GRADIENTS: "gradients",
}


@dataclass(frozen=True)
class Cost:
    """Passes per image, counted below and above the layer at which the method cuts the model.

    A method that does not cut has the same number on both sides. Units: passes of that part of the model.
    """

    below: int = 1
    above: int = 1
    backward_above: int = 0
    backward_below: int = 0

    def __str__(self) -> str:
        parts = (
            _passes("forward", "up to", self.below, self.above),
            _passes("backward", "below", self.backward_below, self.backward_above),
        )
        return ", ".join(part for part in parts if part) or "no pass"


def _passes(what: str, there: str, below: int, above: int) -> str:
    """In words; empty if there are none."""
    if below == above:
        return f"{below} {what}" if below else ""
    if not above:
        return f"{below} {what} {there} the layer"
    if not below:
        return f"{above} {what} above the layer"
    return f"{below} {what} {there} the layer and {above} above"


@dataclass(frozen=True)
class MethodCard:
    """What is known of a method before it runs.

    Attributes:
        name: the name on the command line, `grad_cam`.
        title: how people write it, `Grad-CAM`.
        family: the folder that it lives in.
        summary: one sentence: what the map shows.
        needs: what the model must offer.
        signed: whether negative values mean evidence against the target.
        class_specific: whether the map depends on the target.
        stochastic: whether it draws random numbers (always from its own seed).
        citation: paper and equation.
        cost: passes as a function of the configured method.
        target_kind: the only kind of target that makes sense, if there is one (`"concept"`).
        hides: whether 0 means that nothing is shown there; its pictures then use the full range for the rest.
        autocast: empty, or the reason why the method must not run under autocast.
    """

    name: str
    title: str
    family: str
    summary: str
    needs: frozenset[Capability]
    signed: bool
    class_specific: bool
    citation: str
    cost: Callable[[Any], Cost]
    stochastic: bool = False
    target_kind: str | None = None
    hides: bool = False
    autocast: str = ""


class Requirement(StrEnum):
    """What a metric needs to know beside the map."""

    MASK = "mask"
    OBJECTS = "objects"
    BOXES = "boxes"
    MODEL = "model"
    LABEL = "label"
    CONTRAST = "contrast"
    METHOD = "method"


REQUIREMENT_TEXT = {
    Requirement.MASK: "the mask of the object",
    Requirement.OBJECTS: "a mask for each object of the image",
    Requirement.BOXES: "the boxes of the objects",
    Requirement.MODEL: "the model, its input and the target",
    Requirement.LABEL: "the class that the image truly shows",
    Requirement.CONTRAST: "a map for another class that is present in the image",
    Requirement.METHOD: "the method that made the map",
}


@dataclass(frozen=True)
class MetricCard:
    """What is known of a metric before it runs.

    Attributes:
        name: the name in plans and on the command line, `pointing_game`.
        title: how people write it, `Pointing Game`.
        property: the folder that it lives in: localization, faithfulness, complexity …
        summary: one sentence: what a good value means.
        needs: what must be known beside the map.
        bounds: the least and the greatest possible value; None where there is none.
        higher_is_better: None where neither is better.
        citation: paper and equation.
        passes: forward passes of the model per map, as a function of the configured metric.
        parts: names of further values that come with the main one, each with its direction
            (`{"mif": False}`): a row `fidelity.mif` in results.
        aggregates: names of values that only a set of maps has, each with its direction; `Metric.aggregate` makes them.
        monotone_invariant: whether any increasing change of the map's values leaves the score as it is.
        scale_invariant: whether multiplying the map by a positive number does.
        stochastic: whether it draws random numbers (always from its own seed).
    """

    name: str
    title: str
    property: str
    summary: str
    needs: frozenset[Requirement]
    bounds: tuple[float | None, float | None]
    higher_is_better: bool | None
    citation: str
    passes: Callable[[Any], int] = lambda metric: 0
    parts: dict[str, bool | None] = dataclasses.field(default_factory=dict)
    aggregates: dict[str, bool | None] = dataclasses.field(default_factory=dict)
    monotone_invariant: bool = False
    scale_invariant: bool = True
    stochastic: bool = False


@dataclass(frozen=True)
class DatasetCard:
    """What is known of a data set before it is read.

    Attributes:
        name: the name in plans, `voc`.
        title: how people write it, `PASCAL VOC`.
        summary: one sentence: what is in it.
        splits: the splits that can be asked for.
        layout: the files that the folder must hold, as relative patterns; empty where nothing is on disk.
        has: which of masks (`Requirement.OBJECTS`), boxes (`Requirement.BOXES`) and classes (`Requirement.LABEL`) the items bring.
        source: where a person gets it, in words.
        citation: the paper.
    """

    name: str
    title: str
    summary: str
    splits: tuple[str, ...]
    layout: tuple[str, ...]
    has: frozenset[Requirement]
    source: str
    citation: str


def folder_of(cls: type) -> str:
    """Return the folder that a class is written in; `custom` in a notebook or a script."""
    folders = cls.__module__.split(".")[:-1]
    return folders[-1] if folders else "custom"
