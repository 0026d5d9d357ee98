"""Cards: one frozen description per method, metric and dataset, from which everything else is derived.

The command line, the contract checks, the tests, the benchmark and the docs read these cards; there is no second list.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Capability(StrEnum):
    """A capability that a model can offer and a method or target can need."""

    LOGITS = "logits"
    EMBEDDING = "embedding"
    FEATURES = "features"
    TOKENS = "tokens"
    ATTENTION = "attention"
    CLASS_TOKEN = "class_token"
    LAST_BLOCK = "last_block"
    GRADIENTS = "gradients"
    SEGMENTATION = "segmentation"
    DETECTIONS = "detections"


CAPABILITY_TEXT = {
    Capability.LOGITS: "class scores",
    Capability.EMBEDDING: "an embedding",
    Capability.FEATURES: "feature maps on a grid",
    Capability.TOKENS: "patch tokens by block",
    Capability.ATTENTION: "global attention matrices",
    Capability.CLASS_TOKEN: "a class token",
    Capability.LAST_BLOCK: "a last transformer block with a norm before its attention",
    Capability.GRADIENTS: "gradients",
    Capability.SEGMENTATION: "class scores for each pixel",
    Capability.DETECTIONS: "detected boxes",
}


@dataclass(frozen=True)
class Passes:
    """Number of passes of one part of a model to explain one image."""

    forward: int = 1
    backward: int = 0


@dataclass(frozen=True)
class Cost:
    """Passes per image of each part of the model.

    Constructors name the parts: `Cost.whole` (one part: `model`), `Cost.split` (`below` and `above` the layer at which
    the method cuts the model, `Method.layer_`), `Cost.class_token` (`below` the layer, and the class token's `row`
    above it) and `Cost.transformer` (`embedding`, `blocks`, `head`). The
    contract check `check_cost` counts the passes of exactly these parts.

    Attributes:
        parts: Passes by name of the part, ordered from the input to the output.
    """

    parts: Mapping[str, Passes]

    def __hash__(self) -> int:
        return hash(tuple(self.parts.items()))

    @classmethod
    def whole(cls, forward: int = 1, backward: int = 0) -> Cost:
        """Return the cost of a method that runs all of the model equally often."""
        return cls({"model": Passes(forward, backward)})

    @classmethod
    def split(cls, *, below: Passes, above: Passes) -> Cost:
        """Return the cost of a method that cuts the model at its layer.

        Args:
            below: Passes from the input up to and with the layer.
            above: Passes from the layer to the output.
        """
        return cls({"below": below, "above": above})

    @classmethod
    def class_token(cls, *, below: Passes, row: Passes) -> Cost:
        """Return the cost of a method that runs the class token alone above its layer.

        The projections of the last attention run once more, on a basis of the tokens' space.

        Args:
            below: Passes from the input up to and with the layer.
            row: Passes of the class token, one of many tokens, from the layer to the output.
        """
        return cls({"below": below, "row": row})

    @classmethod
    def transformer(cls, *, embedding: Passes, blocks: Passes, head: Passes) -> Cost:
        """Return the cost of a method for which the parts of a transformer run differently often.

        Args:
            embedding: Passes of everything before the first block.
            blocks: Passes of each block.
            head: Passes of everything after the last block.
        """
        return cls({"embedding": embedding, "blocks": blocks, "head": head})

    @property
    def forward(self) -> int:
        """Forward passes of the part that runs most often."""
        return max(part.forward for part in self.parts.values())

    @property
    def backward(self) -> int:
        """Backward passes of the part that is differentiated most often."""
        return max(part.backward for part in self.parts.values())

    @property
    def complete_forwards(self) -> int:
        """Forward passes of the part that runs least often: how often the model runs from the input to the output."""
        return min(part.forward for part in self.parts.values())

    def __str__(self) -> str:
        forward = {name: part.forward for name, part in self.parts.items()}
        backward = {name: part.backward for name, part in self.parts.items()}
        sentences = [_describe_passes("forward", forward), _describe_passes("backward", backward)]
        return ", ".join(sentence for sentence in sentences if sentence) or "no pass"


def _describe_passes(direction: str, counts: dict[str, int]) -> str:
    """Describe passes in one direction in words; empty if there are none."""
    if len(set(counts.values())) == 1:
        count = next(iter(counts.values()))
        return f"{count} {direction}" if count else ""
    phrases = [f"{count} {_where(direction, part)}" for part, count in counts.items() if count]
    phrases[0] = phrases[0].replace(" ", f" {direction} ", 1)
    if len(phrases) > 1 and phrases[-1].endswith(" above the layer"):
        phrases[-1] = phrases[-1].removesuffix(" the layer")
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last


def _where(direction: str, part: str) -> str:
    if part == "below":
        return f"{'up to' if direction == 'forward' else 'below'} the layer"
    if part == "row":
        return "of the class token alone above the layer"
    return "above the layer" if part == "above" else f"through the {part}"


@dataclass(frozen=True)
class MethodCard:
    """Description of a method, known before it runs.

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
        hides: whether 0 means that nothing is shown there; its images then use the full range for the rest.
        volumes: whether it serves 3-D models as well.
        autocast: empty, or the reason why the method must not run under autocast.
        trained: whether it is fitted first (`seewhy train`) and then given its `weights`.
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
    volumes: bool = False
    autocast: str = ""
    trained: bool = False


class Requirement(StrEnum):
    """An input that a metric needs beside the map."""

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
    """Description of a metric, known before it runs.

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
        unit: unit of the values and their parts; empty for shares, correlations and probabilities.
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
    unit: str = ""
    parts: dict[str, bool | None] = dataclasses.field(default_factory=dict[str, bool | None])
    aggregates: dict[str, bool | None] = dataclasses.field(default_factory=dict[str, bool | None])
    monotone_invariant: bool = False
    scale_invariant: bool = True
    stochastic: bool = False


@dataclass(frozen=True)
class DatasetCard:
    """Description of a dataset, known before it is read.

    Attributes:
        name: the name in plans, `voc`.
        title: how people write it, `PASCAL VOC`.
        summary: one sentence: what is in it.
        splits: the splits that can be asked for.
        layout: the files that the folder must hold, as relative patterns; empty where nothing is on disk.
        has: which of masks (`Requirement.OBJECTS`), boxes (`Requirement.BOXES`) and classes (`Requirement.LABEL`) the
            items bring.
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
