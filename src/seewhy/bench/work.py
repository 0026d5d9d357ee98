"""One piece of work: a batch of pictures of one model, with every method, scored by every metric.

`do_unit(plan, folder, unit)` needs only picklable things and leaves only files behind, so any worker anywhere can call
it; what a process loaded for one unit stays for the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.bench.baselines import BASELINES, Baseline
from seewhy.bench.entries import Chunk, class_map
from seewhy.bench.plan import DATA_KEYS, Choice, Plan
from seewhy.bench.rows import failed_rows, image_rows, map_rows, metric_rows, model_rows
from seewhy.bench.store import IMAGES, MAPS, ROWS, Store, part_name
from seewhy.data import Dataset, Item, load_data
from seewhy.data.base import spread
from seewhy.errors import OptionError, RequirementError, SeewhyError
from seewhy.explainer import as_method
from seewhy.methods import METHODS, Method
from seewhy.metrics import Metric
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model
from seewhy.registry import Ask, Need, options_of

PROBED = 32  # pictures that are looked at before the start, for whether any shows two classes
OnPart = Callable[[str, str, int], None]


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
        return max(self.method.cost.below, self.method.cost.above) if self.method else 0

    def __call__(self, chunk: Chunk) -> Float[Tensor, "pairs rows cols"]:
        """A map for each pair of the chunk; label-free ones are made once for each picture."""
        rows = [row for row, _ in chunk.pairs]
        if self.method is None:
            return torch.stack([self.by.make(self.seed, chunk.items[row][0], -1 if cls is None else cls)
                                for row, cls in chunk.pairs]).to(chunk.x.device)
        if not self.method.card.class_specific:
            return self.method(chunk.x)[rows]
        return self.method(chunk.x, [cls for _, cls in chunk.pairs], of=rows)

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
    def rivals(self) -> bool:
        return any(Ask.RIVAL in metric.card.needs for metric in self.metrics.values())

    def chunk(self, items: Sequence[tuple[int, Item]]) -> Chunk:
        return Chunk(self.model, self.data, self.plan.protocol, self.classes, items, self.rivals)


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
                raise RequirementError(f"no method of the plan serves {stage.label}: "
                                       f"{next(iter(stage.skipped.values()), '')}")
        return stages

    def load(self, batch: int) -> tuple[list[tuple[int, Item]], dict[int, str]]:
        """The items of a batch that can be read, and why the others cannot."""
        good, bad = [], {}
        for number in self.batches[batch]:
            try:
                good.append((number, self.data[number]))
            except SeewhyError as error:
                bad[number] = str(error)
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
        rest = [cls.card.name for cls in METHODS if cls.card.name not in named] if self.plan.all_methods else []
        return [*self.plan.methods, *(Choice(name, name) for name in rest)]

    def _check_needs(self) -> None:
        has = self.data.card.has
        given = {Ask.MASK: {Ask.OBJECTS, Ask.MASK}, Ask.OBJECTS: {Ask.OBJECTS}, Ask.RIVAL: {Ask.LABEL},
                 Ask.BOXES: {Ask.BOXES, Ask.OBJECTS}, Ask.LABEL: {Ask.LABEL}}
        what = {Ask.MASK: "masks", Ask.OBJECTS: "masks", Ask.BOXES: "boxes", Ask.LABEL: "classes", Ask.RIVAL: "classes"}
        for label, metric in self.metrics.items():
            for ask in sorted(metric.card.needs & given.keys()):
                if not given[ask] & has:
                    raise OptionError(f"metric {label} needs {what[ask]}, which {self.data.card.title} does not have; "
                                      "remove the metric or choose other data")
        if self.plan.protocol.target != "prediction" and Ask.LABEL not in has:
            raise OptionError(f"{self.data.card.title} has no classes; use target = \"prediction\" in [protocol]")
        if any(Ask.RIVAL in m.card.needs for m in self.metrics.values()) and not self._two_classes():
            label = next(k for k, m in self.metrics.items() if Ask.RIVAL in m.card.needs)
            raise OptionError(f"metric {label} needs pictures with two classes, and none of the first is one; "
                              "remove the metric or choose other data")

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
    cls = METHODS.get(choice.name)
    if cls.card.target_kind is not None:
        return f"{cls.card.title} explains a {cls.card.target_kind}, and a plan's targets are classes"
    if cls.card.class_specific and Need.LOGITS not in model.offers:
        return f"{cls.card.title} explains a class, and {model.name} has none"
    options = {**({"seed": seed} if "seed" in options_of(cls) else {}), **choice.options}
    try:
        return Tool(choice.label, as_method(model, cls, **options), seed)
    except OptionError:
        raise
    except SeewhyError as error:
        return str(error)


# ── doing it ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def _bench(text: str) -> Bench:
    return Bench(Plan.parse(text))


def do_unit(plan: str, folder: str | Path, unit: Unit, on_part: OnPart = lambda *_: None) -> None:
    """Everything of a unit that is not on disk yet. Returns when it is.

    Args:
        plan: the plan's text.
        folder: of the run.
        on_part: called with (model, method, batch) after each part, finished before or now.

    Raises:
        SeewhyError: the folder cannot be written, or the plan cannot work at all. What goes wrong with single
            pictures, maps or metrics becomes rows.
    """
    work(_bench(plan), Store(folder), unit, on_part)


def parts_of(stage: Stage, batch: int) -> dict[str, str]:
    """File names by method label; "" has the model's own answers."""
    return {label: part_name(stage.label, label, batch) for label in ("", *stage.tools)}


def work(bench: Bench, store: Store, unit: Unit, on_part: OnPart) -> None:
    """`do_unit` with everything at hand."""
    stage = bench.stage(unit.model)
    parts = parts_of(stage, unit.batch)
    todo = [label for label, name in parts.items() if not store.has(name)]
    runner = _Runner(stage, *bench.load(unit.batch)) if todo else None
    for label, name in parts.items():
        if label in todo:
            rows, maps = runner.part(label)
            if stage.plan.protocol.keep_maps:
                store.write(MAPS if label else IMAGES, name, maps)
            store.write(ROWS, name, rows)
        on_part(stage.label, label, unit.batch)


Part = tuple[list[dict[str, Any]], list[dict[str, Any]]]


@dataclass(eq=False)
class _Runner:
    """One batch of one model; its chunks are shared by all methods."""

    stage: Stage
    items: list[tuple[int, Item]]
    bad: dict[int, str]
    _chunks: dict[tuple[int, ...], Chunk] = field(default_factory=dict)

    def part(self, label: str) -> Part:
        """Rows and maps (or pictures, for the model's own answers) of a method."""
        found: Part = ([], [])
        for piece in self._pieces(self.items):
            self._add(found, self._attempt(label, piece))
        for number, error in self.bad.items():
            found[0].extend(failed_rows(self.stage, label, number, self.stage.data.ids[number], error))
        return found

    def _attempt(self, label: str, items: list[tuple[int, Item]]) -> Part:
        """All together; smaller if memory does not do; one by one if something fails, to find out which."""
        try:
            return self._compute(label, self._chunk(items))
        except SeewhyError as error:
            why, smaller = str(error), [[item] for item in items]
        except Exception as error:
            why, smaller = f"{type(error).__name__}: {_line(error)}", [[item] for item in items]
            if _out_of_memory(error):
                why = "out of memory with a single picture; use a smaller model or another device"
                smaller = self._halved(items)
        if len(items) == 1:
            number, item = items[0]
            return failed_rows(self.stage, label, number, item.id, why), []
        found: Part = ([], [])
        for piece in smaller:
            self._add(found, self._attempt(label, piece))
        return found

    def _compute(self, label: str, chunk: Chunk) -> Part:
        if not label:
            return model_rows(self.stage, chunk), image_rows(self.stage, chunk)
        if not chunk.entries:
            raise SeewhyError("the picture shows no class")
        tool = self.stage.tools[label]
        started = time.perf_counter()
        maps = tool(chunk)
        seconds = (time.perf_counter() - started) / tool.made(chunk)
        rows = metric_rows(self.stage, chunk, tool, maps, seconds)
        return rows, map_rows(self.stage, chunk, tool, maps) if self.stage.plan.protocol.keep_maps else []

    def _halved(self, items: list[tuple[int, Item]]) -> list[list[tuple[int, Item]]]:
        """The batch in two, from now on; what was kept of larger batches is let go."""
        self._chunks.clear()
        self.stage.limit = max(1, -(-len(items) // 2))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return list(self._pieces(items))

    def _pieces(self, items: list[tuple[int, Item]]) -> Iterator[list[tuple[int, Item]]]:
        step = self.stage.limit
        for start in range(0, len(items), step):
            yield items[start : start + step]

    def _chunk(self, items: list[tuple[int, Item]]) -> Chunk:
        key = tuple(number for number, _ in items)
        if key not in self._chunks:
            self._chunks[key] = self.stage.chunk(items)
        return self._chunks[key]

    @staticmethod
    def _add(found: Part, more: Part) -> None:
        found[0].extend(more[0])
        found[1].extend(more[1])


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
