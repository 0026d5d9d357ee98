"""Setup of a benchmark before anything runs: data, metrics, and models with the methods that serve them."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from seewhy.bench.classes import find_named_class, match_classes
from seewhy.bench.geometry import change_geometry
from seewhy.bench.manifest import describe_model
from seewhy.bench.map_maker import MapMaker
from seewhy.bench.plan import Plan, PlanEntry
from seewhy.bench.reference_maps import REFERENCE_MAPS
from seewhy.bench.samples import IndexedSample, SampleBatch
from seewhy.core.cards import Capability, Requirement
from seewhy.core.options import options_of
from seewhy.data import Dataset, load_data
from seewhy.data.base import sample_indices
from seewhy.errors import OptionError, RequirementError, SeewhyError
from seewhy.methods import METHODS, Method
from seewhy.methods.factory import as_method
from seewhy.metrics import Metric
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model
from seewhy.targets import Rank

PROBED_SAMPLES = 32
"""Samples that are looked at before the start, for whether any shows two classes."""

PROVIDED_BY = {
    Requirement.MASK: {Requirement.OBJECTS, Requirement.MASK},
    Requirement.OBJECTS: {Requirement.OBJECTS},
    Requirement.CONTRAST: {Requirement.LABEL},
    Requirement.BOXES: {Requirement.BOXES, Requirement.OBJECTS},
    Requirement.LABEL: {Requirement.LABEL},
}
"""What a dataset must bring so that a metric's requirement is met; the other requirements do not depend on it."""

ANNOTATION_NAMES = {
    Requirement.MASK: "masks",
    Requirement.OBJECTS: "masks",
    Requirement.BOXES: "boxes",
    Requirement.LABEL: "classes",
    Requirement.CONTRAST: "classes",
}


@dataclass(frozen=True)
class Given:
    """What a plan only names, and Python brings as it is (`seewhy.evaluate`).

    Attributes:
        models: Models by the labels that the plan has for them.
        data: The dataset; None: the plan tells.
    """

    models: Mapping[str, VisionModel] = field(default_factory=dict)
    data: Dataset | None = None

    @property
    def names(self) -> list[str]:
        """The labels of the models, and "data"."""
        return [*self.models, *([] if self.data is None else ["data"])]


@dataclass(frozen=True)
class WorkUnit:
    """A batch of samples for one model.

    Attributes:
        model: Label of the model.
        batch: Number of the batch.
    """

    model: str
    batch: int


@dataclass(frozen=True)
class ModelSummary:
    """Summary of a model of a plan once it has been opened; holds no model.

    Attributes:
        label: Name in results.
        description: The model's entry in the manifest.
        methods: The manifest's entries of the methods and reference maps that serve it, by label.
        skipped: Labels of methods that cannot serve it, and why.
        device: Where the model ran.
    """

    label: str
    description: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    skipped: dict[str, str]
    device: torch.device


@dataclass(eq=False)
class ModelSetup:
    """A loaded model with everything that a plan wants of it.

    Attributes:
        plan: The plan.
        entry: The plan's entry of the model.
        model: The model.
        data: The plan's dataset.
        metrics: Metrics by label.
        classes: Result of `match_classes`.
        map_makers: Methods and reference maps by label.
        skipped: Labels of methods that cannot serve this model, and why.
        fitting_batch: Samples that fit into memory at once, as far as is known.
    """

    plan: Plan
    entry: PlanEntry
    model: VisionModel
    data: Dataset
    metrics: dict[str, Metric]
    classes: list[int] | None
    map_makers: dict[str, MapMaker]
    skipped: dict[str, str]
    fitting_batch: int = field(init=False)

    def __post_init__(self) -> None:
        self.fitting_batch = self.plan.protocol.batch_size

    @property
    def label(self) -> str:
        """Name of the model in results."""
        return self.entry.label

    def batch(self, samples: Sequence[IndexedSample]) -> SampleBatch:
        """Return samples as a batch for this model."""
        contrast_maps = any(Requirement.CONTRAST in metric.card.needs for metric in self.metrics.values())
        return SampleBatch(self.model, self.data, self.plan.protocol, self.classes, samples, contrast_maps)

    def summarize(self) -> ModelSummary:
        """Return what stays known when the model is let go."""
        methods = {label: maker.describe() for label, maker in self.map_makers.items()}
        description = describe_model(self.entry, self.model)
        return ModelSummary(self.label, description, methods, dict(self.skipped), self.model.device)


class Benchmark:
    """A plan with its data, its metrics and one model at a time.

    Args:
        plan: The plan.
        given: Models and data that Python brings as they are.

    Raises:
        SeewhyError: When something that the plan names does not exist or cannot work together; no forward was made.
    """

    def __init__(self, plan: Plan, given: Given | None = None) -> None:
        self.plan = plan
        self.given = given or Given()
        self.data: Dataset = self.given.data or load_data(
            plan.data.name, plan.data.root, plan.data.split, **plan.data.options
        )
        self.metrics = plan.build_metrics()
        self.indices = sample_indices(plan.data.n, len(self.data), plan.seed)
        if not self.indices:
            raise OptionError(f"{self.data.card.title} {self.data.split} is empty; choose another split or root")
        self._check_data_serves_metrics()
        self._setup: ModelSetup | None = None
        self._summaries: dict[str, ModelSummary] = {}

    @cached_property
    def batches(self) -> list[list[int]]:
        """Positions in the dataset, by batch."""
        size = self.plan.protocol.batch_size
        return [self.indices[i : i + size] for i in range(0, len(self.indices), size)]

    @property
    def units(self) -> list[WorkUnit]:
        """All work, model by model."""
        return [WorkUnit(model.label, batch) for model in self.plan.models for batch in range(len(self.batches))]

    def setup(self, label: str) -> ModelSetup:
        """Return a model, ready; the one before it is released first."""
        if self._setup is None or self._setup.label != label:
            if self._setup is not None:
                self._setup = None
                gc.collect()  # a module that refers to itself (a hook, a cache) would stay beside the next one
            entry = next(entry for entry in self.plan.models if entry.label == label)
            self._setup = self._build_setup(entry)
        return self._setup

    def summary(self, label: str) -> ModelSummary:
        """Return what is known of a model, which is opened only if it has never been."""
        if label not in self._summaries:
            self._summaries[label] = self.setup(label).summarize()
        return self._summaries[label]

    def check(self) -> list[ModelSummary]:
        """Open every model once, one at a time; only the plan's first stays loaded, for the work that comes next.

        Returns:
            A summary for each model, in the plan's order.

        Raises:
            RequirementError: When a model is left without methods. A method that serves no model, or only some, is a
                gap with its reason in the tables.
        """
        for entry in reversed(self.plan.models):
            self.summary(entry.label)
        summaries = [self.summary(entry.label) for entry in self.plan.models]
        for summary in summaries:
            if not summary.methods.keys() - set(self.plan.reference_maps):
                reason = next(iter(summary.skipped.values()), "")
                raise RequirementError(
                    f"no method of the plan serves {summary.label}: {reason}; add a method or remove the model"
                )
        return summaries

    def load(self, batch: int) -> tuple[list[IndexedSample], dict[int, str]]:
        """Read the samples of a batch.

        Args:
            batch: Number of the batch.

        Returns:
            The samples that can be explained, and for the positions of the others the reason why not.
        """
        samples, reasons = [], {}
        for index in self.batches[batch]:
            try:
                sample = self.data[index]
            except SeewhyError as error:
                reasons[index] = str(error)
                continue
            if sample.labels or not self.plan.protocol.by_label:
                samples.append((index, sample))
            else:
                reasons[index] = "the image shows no class"
        return samples, reasons

    def _build_setup(self, entry: PlanEntry) -> ModelSetup:
        given = self.given.models.get(entry.label)
        if given is None:
            model = load_model(entry.name, **{"device": self.plan.protocol.device, **entry.options})
        else:
            model = copy.copy(given)  # the plan may change how it sees images
        change_geometry(model, self.plan.protocol.preprocess)
        protocol = self.plan.protocol
        classes = match_classes(self.data, model, required=protocol.by_label)
        if protocol.rank:
            Rank(protocol.rank).check(1, model.classes)
        if protocol.class_name is not None:
            find_named_class(protocol.class_name, self.data, model, classes)
        seed = self.plan.seed
        map_makers = {name: MapMaker(name, REFERENCE_MAPS[name], seed) for name in self.plan.reference_maps}
        skipped = {}
        for method_entry in self._method_entries():
            method = _method_or_reason(model, method_entry, seed)
            if isinstance(method, Method):
                map_makers[method_entry.label] = MapMaker(method_entry.label, method, seed)
            else:
                skipped[method_entry.label] = method
        return ModelSetup(self.plan, entry, model, self.data, self.metrics, classes, map_makers, skipped)

    def _method_entries(self) -> list[PlanEntry]:
        """Return the methods that the plan names, then all others if it says "all"."""
        if not self.plan.all_methods:
            return list(self.plan.methods)
        named = {entry.name for entry in self.plan.methods}
        others = [cls.card.name for cls in METHODS.values() if cls.card.name not in named]
        return [*self.plan.methods, *(PlanEntry(name, name) for name in others)]

    def _check_data_serves_metrics(self) -> None:
        has = self.data.card.has
        for label, metric in self.metrics.items():
            for requirement in sorted(metric.card.needs & PROVIDED_BY.keys()):
                if not PROVIDED_BY[requirement] & has:
                    raise OptionError(
                        f"metric {label} needs {ANNOTATION_NAMES[requirement]}, which {self.data.card.title} does not "
                        "have; remove the metric or choose other data"
                    )
        if self.plan.protocol.by_label and Requirement.LABEL not in has:
            raise OptionError(f'{self.data.card.title} has no classes; use target = "top-1" in [protocol]')
        contrasting = [label for label, m in self.metrics.items() if Requirement.CONTRAST in m.card.needs]
        if contrasting and not self._shows_two_classes():
            raise OptionError(
                f"metric {contrasting[0]} needs images of two classes, and the first {PROBED_SAMPLES} samples have "
                "none; remove the metric or choose other data"
            )

    def _shows_two_classes(self) -> bool:
        for index in self.indices[:PROBED_SAMPLES]:
            try:
                if len(set(self.data[index].labels)) > 1:
                    return True
            except SeewhyError:
                continue
        return False


def _method_or_reason(model: VisionModel, entry: PlanEntry, seed: int) -> Method | str:
    """Return the configured method, or why it cannot serve the model."""
    cls = METHODS[entry.name]
    title = cls.card.title
    if cls.card.target_kind is not None:
        return f"{title} explains a {cls.card.target_kind}, and a plan's targets are classes"
    if cls.card.class_specific and Capability.LOGITS not in model.capabilities:
        return f"{title} explains a class, and {model.name} has none"
    shared = {"seed": seed} if "seed" in options_of(cls) else {}
    try:
        return as_method(model, cls, **{**shared, **entry.options})
    except OptionError:
        raise
    except SeewhyError as error:
        return str(error)
