"""Plans of benchmarks: a small TOML file, checked before anything is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seewhy.bench import plan_file, plan_schema
from seewhy.bench.plan_file import DataTable, EntryTable, Protocol
from seewhy.bench.reference_maps import REFERENCE_MAPS
from seewhy.bench.toml import parse_toml, plan_digest
from seewhy.core.options import check_option_names, options_of
from seewhy.data import DATASETS
from seewhy.errors import OptionError, SeewhyError, UnknownNameError
from seewhy.methods import METHODS
from seewhy.metrics import METRICS, Metric


@dataclass(frozen=True)
class PlanEntry:
    """A model, method or metric of a plan.

    Attributes:
        name: The registered name; for a model what is loaded.
        label: What results call it.
        options: Its options.
    """

    name: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A checked plan; picklable. All other attributes follow from `text`.

    Attributes:
        text: What the user wrote.
        seed: Seed of everything that is drawn.
        models: The models.
        methods: Methods that the plan names, with their options.
        all_methods: Whether every other method that can serve a model takes part as well.
        metrics: The metrics.
        reference_maps: Names of the maps that methods are compared with.
        data: The dataset and how much of it is used.
        protocol: How maps are computed and compared.
        published: Figures of a paper, for the report only.
    """

    text: str = field(repr=False)
    seed: int
    models: tuple[PlanEntry, ...]
    methods: tuple[PlanEntry, ...]
    all_methods: bool
    metrics: tuple[PlanEntry, ...]
    reference_maps: tuple[str, ...]
    data: DataTable
    protocol: Protocol
    published: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a plan from a TOML file.

        Raises:
            OptionError: When the file cannot be read, or something in it cannot work.
            UnknownNameError: When it names an unknown method, metric, dataset or reference map.
        """
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"cannot read the plan {str(path)!r} ({error}); pass the path of a TOML file") from None
        return cls.parse(text, name=Path(path).name)

    @classmethod
    def parse(cls, text: str, name: str = "plan") -> Plan:
        """Parse a plan from TOML text.

        Args:
            text: The TOML text.
            name: Name of the plan, for messages.

        Raises:
            OptionError: When something in the plan cannot work.
            UnknownNameError: When it names an unknown method, metric, dataset or reference map.
        """
        content = plan_file.validate(parse_toml(text, name), name)
        named = [entry for entry in content.methods if entry.name != "all"]
        all_methods = len(named) < len(content.methods)
        methods = _registered_entries("methods", named, METHODS.__getitem__, name)
        _check_method_labels(methods, all_methods, name)
        _check_threshold(content.protocol.threshold, name)
        DATASETS[content.data.name]  # raises if there is none
        return cls(
            text,
            content.seed,
            _model_entries(content.models, name),
            methods,
            all_methods,
            _registered_entries("metrics", content.metrics, METRICS.__getitem__, name),
            _reference_maps(content.reference_maps),
            content.data,
            content.protocol,
            content.published,
        )

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """Return the JSON schema of plans, with the options of every registered method and metric."""
        return plan_schema.json_schema()

    @property
    def digest(self) -> str:
        """Digest of what the plan says, whatever its spaces and comments; the same in every version of seewhy."""
        return plan_digest(self.text)

    def build_metrics(self) -> dict[str, Metric]:
        """Return the metrics by label, with the plan's seed, upsampling and threshold where they have such an option.

        Raises:
            OptionError: When an option has an impossible value.
        """
        shared = {"seed": self.seed, "upsampling": self.protocol.upsampling}
        metrics = {}
        for entry in self.metrics:
            cls = METRICS[entry.name]
            options = {name: value for name, value in shared.items() if name in options_of(cls)}
            if not entry.options.keys() & {"rule", "level"}:
                options |= _threshold_options(cls, self.protocol.threshold)
            try:
                metrics[entry.label] = cls(**{**options, **entry.options})
            except SeewhyError as error:
                raise OptionError(f"metric {entry.label}: {error}") from error
            except (TypeError, ValueError) as error:
                raise OptionError(f"metric {entry.label}: {error}; correct its options in the plan") from error
        return metrics


# ── entries ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _model_entries(tables: Sequence[EntryTable], plan: str) -> tuple[PlanEntry, ...]:
    entries = [PlanEntry(table.source or table.name, table.label or table.name, table.options) for table in tables]
    _check_distinct("models", entries, plan)
    return tuple(entries)


def _registered_entries(
    kind: str, tables: Sequence[EntryTable], find: Callable[[str], type], plan: str
) -> tuple[PlanEntry, ...]:
    """Look up methods or metrics and check the names of their options."""
    entries = []
    for table in tables:
        cls = find(table.name)
        options = {**table.options, **({} if table.source is None else {"source": table.source})}
        _check_option_names(cls, options, plan)
        entries.append(PlanEntry(cls.card.name, table.label or "", options))  # type: ignore[attr-defined] # registered
    entries = [PlanEntry(entry.name, _label(entry, entries), entry.options) for entry in entries]
    _check_distinct(kind, entries, plan)
    return tuple(entries)


def _label(entry: PlanEntry, entries: Sequence[PlanEntry]) -> str:
    """Return the label of an entry; entries of one name without labels are told apart by their options."""
    if entry.label:
        return entry.label
    repeated = [other.label or other.name for other in entries].count(entry.name) > 1
    if not repeated or not entry.options:
        return entry.name
    return f"{entry.name} ({', '.join(f'{name}={value}' for name, value in entry.options.items())})"


def _check_option_names(cls: type, options: dict[str, Any], plan: str) -> None:
    title = cls.card.title  # type: ignore[attr-defined] # registered classes have a card
    check_option_names(f"{plan}: {title}", options, options_of(cls))


def _check_distinct(kind: str, entries: Sequence[PlanEntry], plan: str) -> None:
    label, count = Counter(entry.label for entry in entries).most_common(1)[0] if entries else ("", 0)
    if count > 1:
        raise OptionError(f"{plan}: {kind} has {label!r} twice; remove one, or give one of them a label")


def _check_method_labels(methods: Sequence[PlanEntry], all_methods: bool, plan: str) -> None:
    """Check that no label is the name of something else that takes part."""
    for entry in methods:
        if entry.label in REFERENCE_MAPS:
            taken_by = "reference map"
        elif all_methods and entry.label != entry.name and entry.label in METHODS:
            taken_by = "method"
        else:
            continue
        raise OptionError(f"{plan}: {entry.label!r} is the name of another {taken_by}; give {entry.name} another label")


def _reference_maps(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in REFERENCE_MAPS:
            raise UnknownNameError("reference map", name, REFERENCE_MAPS)
    return tuple(dict.fromkeys(names))


# ── threshold ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_threshold(threshold: float | str | None, plan: str) -> None:
    """Check the threshold even where no metric of the plan has one."""
    try:
        for cls in METRICS.values():
            if options := _threshold_options(cls, threshold):
                cls(**options)
    except OptionError as error:
        raise OptionError(f"{plan}: protocol.threshold = {threshold!r}: {error}") from None


def _threshold_options(cls: type, threshold: float | str | None) -> dict[str, Any]:
    """Return the plan's threshold as options of a metric."""
    if threshold is None or "rule" not in options_of(cls):
        return {}
    return {"rule": threshold} if isinstance(threshold, str) else {"rule": "max", "level": threshold}
