"""What a plan becomes before anything runs: its data, its metrics, and its models with the methods that serve them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.bench.plan import DATA_KEYS, Choice, Plan
from seewhy.bench.reference_maps import BASELINES, Baseline
from seewhy.bench.samples import Chunk, class_map
from seewhy.core.cards import Capability, Requirement
from seewhy.core.options import options_of
from seewhy.data import Dataset, Item, load_data
from seewhy.data.base import spread
from seewhy.errors import OptionError, RequirementError, SeewhyError
from seewhy.methods import METHODS, Method
from seewhy.methods.factory import as_method
from seewhy.metrics import Metric
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model

PROBED = 32  # pictures that are looked at before the start, for whether any shows two classes


@dataclass(frozen=True)
class Unit:
    """A batch of pictures for one model."""

    model: str
    batch: int


@dataclass(eq=False)
class Tool:
    """What makes maps: a method on a model, or a baseline."""

    label: str
    by: Method | Baseline
    seed: int

    @property
    def method(self) -> Method | None:
        return self.by if isinstance(self.by, Method) else None

    @property
    def passes(self) -> int:
        """Forward passes per map."""
        return self.method.cost.forward if self.method else 0

    def __call__(self, chunk: Chunk) -> Float[Tensor, "pairs rows cols"]:
        """A map for each pair of the chunk; label-free ones are made once for each picture."""
        rows = [row for row, _ in chunk.pairs]
        if self.method is None:
            return torch.stack(
                [self.by.make(self.seed, chunk.items[row][0], -1 if cls is None else cls) for row, cls in chunk.pairs]
            ).to(chunk.x.device)
        if not self.method.card.class_specific:
            return self.method(chunk.x)[rows]
        return self.method(chunk.x, [cls for _, cls in chunk.pairs], image_index=rows)

    def made(self, chunk: Chunk) -> int:
        """How many maps a call computes."""
        free = self.method is not None and not self.method.card.class_specific
        return len(chunk.items) if free else len(chunk.pairs)


@dataclass(eq=False)
class Stage:
    """A model with everything that a plan wants of it.

    Attributes:
        tools: what makes maps, by label.
        skipped: labels of methods that cannot serve this model, and why.
        limit: pictures that fit into memory at once, as far as is known.
    """

    plan: Plan
    label: str
    model: VisionModel
    data: Dataset
    metrics: dict[str, Metric]
    classes: list[int] | None
    tools: dict[str, Tool]
    skipped: dict[str, str]
    limit: int = field(init=False)

    def __post_init__(self) -> None:
        self.limit = self.plan.protocol.batch_size

    @property
    def contrast_maps(self) -> bool:
        return any(Requirement.CONTRAST in metric.card.needs for metric in self.metrics.values())

    def chunk(self, items: Sequence[tuple[int, Item]]) -> Chunk:
        return Chunk(self.model, self.data, self.plan.protocol, self.classes, items, self.contrast_maps)


class Bench:
    """A plan with its data, metrics and (one at a time) models.

    Raises:
        SeewhyError: something that the plan names does not exist or cannot work together; no forward was made.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        given = dict(plan.data)
        n, name = given.pop("n", None), given.pop("name")
        self.data = load_data(name, given.pop("root", None), given.pop("split", None), **given)
        self.metrics = plan.made_metrics()
        self.numbers = spread(n, len(self.data), plan.seed)
        if not self.numbers:
            raise OptionError(f"{self.data.card.title} {self.data.split} is empty; choose another split or root")
        self._check_needs()
        self._stage: Stage | None = None

    @cached_property
    def batches(self) -> list[list[int]]:
        """Positions in the data set, by batch."""
        size = self.plan.protocol.batch_size
        return [self.numbers[i : i + size] for i in range(0, len(self.numbers), size)]

    @property
    def units(self) -> list[Unit]:
        return [Unit(model.label, batch) for model in self.plan.models for batch in range(len(self.batches))]

    @property
    def data_options(self) -> dict[str, Any]:
        return {k: v for k, v in self.plan.data.items() if k not in DATA_KEYS}

    def stage(self, label: str) -> Stage:
        """A model, ready; the one before it is let go."""
        if self._stage is None or self._stage.label != label:
            self._stage = None
            choice = next(choice for choice in self.plan.models if choice.label == label)
            self._stage = self._make_stage(choice)
        return self._stage

    def check(self) -> list[Stage]:
        """All stages, without their models staying loaded (but the first).

        Raises:
            SeewhyError: a method that was asked for by name serves no model, or a model is left without methods.
        """
        stages = [self.stage(choice.label) for choice in reversed(self.plan.models)][::-1]
        for choice in self.plan.methods:
            reasons = [stage.skipped.get(choice.label, "") for stage in stages]
            if all(reasons):
                raise RequirementError(f"{choice.label} serves none of the plan's models: {reasons[0]}")
        for stage in stages:
            if not any(tool.method for tool in stage.tools.values()):
                raise RequirementError(
                    f"no method of the plan serves {stage.label}: {next(iter(stage.skipped.values()), '')}"
                )
        return stages

    def load(self, batch: int) -> tuple[list[tuple[int, Item]], dict[int, str]]:
        """The items of a batch that can be explained, and why the others cannot."""
        good, bad = [], {}
        for number in self.batches[batch]:
            try:
                item = self.data[number]
            except SeewhyError as error:
                bad[number] = str(error)
                continue
            if item.labels or self.plan.protocol.target == "prediction":
                good.append((number, item))
            else:
                bad[number] = "the picture shows no class"
        return good, bad

    def _make_stage(self, choice: Choice) -> Stage:
        model = load_model(choice.name, **{"device": self.plan.protocol.device, **choice.options})
        by_class = self.plan.protocol.target != "prediction"
        classes = class_map(self.data, model, must=by_class)
        tools = {name: Tool(name, BASELINES[name], self.plan.seed) for name in self.plan.baselines}
        skipped = {}
        for each in self._methods():
            made = _tool(model, each, self.plan.seed)
            if isinstance(made, Tool):
                tools[each.label] = made
            else:
                skipped[each.label] = made
        return Stage(self.plan, choice.label, model, self.data, self.metrics, classes, tools, skipped)

    def _methods(self) -> Sequence[Choice]:
        named = {choice.name for choice in self.plan.methods}
        rest = (
            [cls.card.name for cls in METHODS.values() if cls.card.name not in named] if self.plan.all_methods else []
        )
        return [*self.plan.methods, *(Choice(name, name) for name in rest)]

    def _check_needs(self) -> None:
        has = self.data.card.has
        given = {
            Requirement.MASK: {Requirement.OBJECTS, Requirement.MASK},
            Requirement.OBJECTS: {Requirement.OBJECTS},
            Requirement.CONTRAST: {Requirement.LABEL},
            Requirement.BOXES: {Requirement.BOXES, Requirement.OBJECTS},
            Requirement.LABEL: {Requirement.LABEL},
        }
        what = {
            Requirement.MASK: "masks",
            Requirement.OBJECTS: "masks",
            Requirement.BOXES: "boxes",
            Requirement.LABEL: "classes",
            Requirement.CONTRAST: "classes",
        }
        for label, metric in self.metrics.items():
            for ask in sorted(metric.card.needs & given.keys()):
                if not given[ask] & has:
                    raise OptionError(
                        f"metric {label} needs {what[ask]}, which {self.data.card.title} does not have; "
                        "remove the metric or choose other data"
                    )
        if self.plan.protocol.target != "prediction" and Requirement.LABEL not in has:
            raise OptionError(f'{self.data.card.title} has no classes; use target = "prediction" in [protocol]')
        if any(Requirement.CONTRAST in m.card.needs for m in self.metrics.values()) and not self._two_classes():
            label = next(k for k, m in self.metrics.items() if Requirement.CONTRAST in m.card.needs)
            raise OptionError(
                f"metric {label} needs pictures with two classes, and none of the first is one; "
                "remove the metric or choose other data"
            )

    def _two_classes(self) -> bool:
        for number in self.numbers[:PROBED]:
            try:
                if len(set(self.data[number].labels)) > 1:
                    return True
            except SeewhyError:
                continue
        return False


def _tool(model: VisionModel, choice: Choice, seed: int) -> Tool | str:
    """The method, or why it cannot serve the model."""
    cls = METHODS[choice.name]
    if cls.card.target_kind is not None:
        return f"{cls.card.title} explains a {cls.card.target_kind}, and a plan's targets are classes"
    if cls.card.class_specific and Capability.LOGITS not in model.capabilities:
        return f"{cls.card.title} explains a class, and {model.name} has none"
    options = {**({"seed": seed} if "seed" in options_of(cls) else {}), **choice.options}
    try:
        return Tool(choice.label, as_method(model, cls, **options), seed)
    except OptionError:
        raise
    except SeewhyError as error:
        return str(error)
