"""A run's folder, opened for queries: plan, manifest, and the rows as a table of DuckDB."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy import ndarray

from seewhy.bench.manifest import REFERENCE_FAMILY
from seewhy.bench.parts import READ, ROWS, duckdb_files
from seewhy.bench.store import PLAN, Store
from seewhy.core.io import first_line
from seewhy.errors import DataError, require

COLUMNS = (
    "model",
    "data",
    "split",
    "sample",
    "index",
    "target",
    "entry",
    "method",
    "metric",
    "value",
    "seconds",
    "error",
    "passes",
)
KEY = ("model", "data", "split", "entry", "method", "metric")


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What the manifest says of a metric, or of a part of one (`fidelity.mif`).

    Attributes:
        label: Name in results.
        title: Name for people.
        property_name: What the metric measures: localization, faithfulness, …
        summary: One sentence: what a good value means.
        higher_is_better: None where neither direction is better.
        citation: Paper and equation.
        options: The metric's options.
        axis: Positions of a curve's points.
        axis_title: What the axis is.
        is_part: Whether it comes with another metric.
        aggregate_of: Registered metric of which it is a value that only a whole set has (`box_iou.ap50`), if any.
    """

    label: str
    title: str
    property_name: str = ""
    summary: str = ""
    higher_is_better: bool | None = None
    citation: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    axis: list[float] | None = None
    axis_title: str = ""
    is_part: bool = False
    aggregate_of: str = ""

    @property
    def arrow(self) -> str:
        """Which direction is better."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def heading(self) -> str:
        """Title and arrow."""
        return f"{self.title} {self.arrow}".strip()


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """What the manifest says of a method as the run configured it.

    Attributes:
        label: Name in results.
        title: Name for people.
        is_reference: Whether it is a reference map, which does not use the model.
        signed: Whether negative values mean evidence against the target.
        citation: Paper and equation.
        cost: Passes in words.
        options: The method's options.
    """

    label: str
    title: str
    is_reference: bool = False
    signed: bool = False
    citation: str = ""
    cost: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """What is compared among itself: one model on one split of one dataset.

    Attributes:
        model: Label of the model.
        data: Name of the dataset.
        split: Split of the dataset.
    """

    model: str
    data: str
    split: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Values for a query."""
        return self.model, self.data, self.split

    @property
    def title(self) -> str:
        """Model and data for people."""
        return f"{self.model} · {self.data} {self.split}".strip()


class RunData:
    """A finished or unfinished run.

    Args:
        folder: What `seewhy bench run` wrote.

    Raises:
        DataError: When there is no run, its manifest is broken, or it has no rows yet.
        MissingExtraError: When DuckDB is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        store = Store.open(folder)
        self.folder = store.folder
        self.manifest = store.manifest
        self.plan_text = store.plan_text
        self.plan = _read_plan(self.folder / PLAN, self.plan_text)
        self._duckdb: Any = require("duckdb", "bench")
        self.database = self._duckdb.connect(config={"threads": 1})  # with several, sums differ in the last digit
        self.files = self.part_files(ROWS)
        self._load()

    def _load(self) -> None:
        if not self.files:
            raise DataError(f"{self.folder} has no rows yet; run `seewhy bench resume {self.folder}` first")
        names = ", ".join(f'"{name}"' for name in COLUMNS if name != "value")
        key = ", ".join(f'"{name}"' for name in KEY)
        # two processes may have written the same row: the quicker counts
        self.query(
            f"CREATE TABLE scores AS SELECT DISTINCT ON ({key}) {names}, CASE WHEN isfinite(value) THEN value END "
            f"AS value FROM {READ} ORDER BY {key}, seconds",
            self.files,
        )

    def part_files(self, kind: str) -> list[str]:
        """Return the Parquet files of rows, maps or images, to be read by `parts.READ`."""
        return duckdb_files(self.folder / kind)

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of an SQL query over the table `scores`.

        Args:
            sql: The query.
            *values: Values for its question marks.

        Raises:
            DataError: When a part cannot be read.
        """
        return self._execute(sql, values).fetchall()

    def query_arrays(self, sql: str, *values: Any) -> dict[str, ndarray]:
        """Return the columns of an SQL query as numpy arrays.

        Args:
            sql: The query.
            *values: Values for its question marks.

        Raises:
            DataError: When a part cannot be read.
        """
        return self._execute(sql, values).fetchnumpy()

    def _execute(self, sql: str, values: tuple[Any, ...]) -> Any:
        try:
            return self.database.execute(sql, list(values))
        except self._duckdb.Error as error:
            raise DataError(
                f"cannot read {self.folder} ({first_line(error)}); run `seewhy bench resume {self.folder}`, which "
                "computes broken parts again"
            ) from error

    @cached_property
    def panels(self) -> list[Panel]:
        """Models with their data, in the order of the plan's models."""
        rows = self.query("SELECT DISTINCT model, data, split FROM scores WHERE metric <> ''")
        order = list(_by_label(self.manifest.get("models")))

        def position(panel: Panel) -> tuple[int, tuple[str, str, str]]:
            return order.index(panel.model) if panel.model in order else len(order), panel.key

        return sorted((Panel(*row) for row in rows), key=position)

    @cached_property
    def methods(self) -> dict[str, MethodInfo]:
        """All methods that have rows, in the order of the plan."""
        described = _by_label(self.manifest.get("methods"))
        rows = self.query("SELECT DISTINCT method FROM scores WHERE method <> '' AND metric <> '' ORDER BY 1")
        present = [method for (method,) in rows]
        labels = [label for label in described if label in present]
        labels += [label for label in present if label not in described]
        return {label: _method_info(label, described.get(label, {})) for label in labels}

    @cached_property
    def metrics(self) -> dict[str, MetricInfo]:
        """All metrics that have rows, each followed by its parts, in the order of the plan."""
        rows = self.query("SELECT DISTINCT metric FROM scores WHERE method <> '' AND metric <> ''")
        present = {metric for (metric,) in rows}
        infos = {}
        for label, about in _by_label(self.manifest.get("metrics")).items():
            infos.update({info.label: info for info in _metric_infos(label, about)})
        for label in sorted(present - infos.keys()):
            infos[label] = MetricInfo(label=label, title=label)
        return {
            label: info
            for label, info in infos.items()
            if (label.rpartition(".")[0] if info.aggregate_of else label) in present
        }


def _read_plan(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"cannot read {path} ({error}); copy the plan there again") from error


def _by_label(entries: Any) -> dict[str, dict[str, Any]]:
    """Return entries by their labels.

    Args:
        entries: `{label: {...}}`, or a list of names or of tables with a label or name.
    """
    if isinstance(entries, dict):
        return {label: about if isinstance(about, dict) else {} for label, about in entries.items()}
    by_label = {}
    for entry in entries or ():
        about = entry if isinstance(entry, dict) else {}
        by_label[str(about.get("label") or about.get("name") or entry)] = about
    return by_label


def _title(label: str, card: dict[str, Any]) -> str:
    """Return the title of a method or metric; with its label where the same one is there with other options."""
    title = card.get("title", label)
    return title if label == card.get("name", label) else f"{title} ({label})"


def _method_info(label: str, about: dict[str, Any]) -> MethodInfo:
    card = about.get("card") or about
    return MethodInfo(
        label=label,
        title=_title(label, card),
        is_reference=card.get("family") == REFERENCE_FAMILY,
        signed=bool(card.get("signed")),
        citation=card.get("citation", ""),
        cost=str(about.get("cost") or card.get("cost") or ""),
        options=about.get("options") or {},
    )


def _metric_infos(label: str, about: dict[str, Any]) -> list[MetricInfo]:
    """Return a metric, then its parts, then its aggregates."""
    card = about.get("card") or about
    metric = MetricInfo(
        label=label,
        title=_title(label, card),
        property_name=card.get("property", ""),
        summary=card.get("summary", ""),
        higher_is_better=card.get("higher_is_better"),
        citation=card.get("citation", ""),
        options=about.get("options") or {},
        axis=about.get("axis"),
        axis_title=about.get("axis_title", ""),
    )
    parts = [(name, better, "") for name, better in (card.get("parts") or {}).items()]
    parts += [(name, better, card.get("name", label)) for name, better in (card.get("aggregates") or {}).items()]
    return [
        metric,
        *(
            MetricInfo(
                label=f"{label}.{name}",
                title=f"{metric.title}: {name}",
                property_name=metric.property_name,
                higher_is_better=better,
                axis=metric.axis,
                axis_title=metric.axis_title,
                is_part=True,
                aggregate_of=aggregate_of,
            )
            for name, better, aggregate_of in parts
        ),
    ]
