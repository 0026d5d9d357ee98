"""A run's folder, opened for questions: plan, manifest, and the rows as a table of DuckDB."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from seewhy.bench.store import PLAN, ROWS, Store
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


@dataclass(frozen=True)
class MetricInfo:
    """What the manifest says of a metric, or of a part of one (`fidelity.mif`).

    Attributes:
        part: whether it comes with another metric.
        whole: of which registered metric it is a value that only a whole set has (`box_iou.ap50`); empty: of none.
    """

    label: str
    title: str
    family: str = ""
    summary: str = ""
    higher_is_better: bool | None = None
    citation: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    axis: list[float] | None = None
    axis_title: str = ""
    part: bool = False
    whole: str = ""

    @property
    def arrow(self) -> str:
        """Which direction is better."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]


@dataclass(frozen=True)
class MethodInfo:
    """What the manifest says of a method as the run configured it. A baseline knows nothing of the model."""

    label: str
    title: str
    baseline: bool = False
    signed: bool = False
    citation: str = ""
    cost: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """What is compared among itself: one model on one split of one data set."""

    model: str
    data: str
    split: str

    @property
    def key(self) -> tuple[str, str, str]:
        """For queries."""
        return self.model, self.data, self.split


class Run:
    """A finished or unfinished run.

    Args:
        folder: what `seewhy bench run` wrote.

    Raises:
        DataError: no run, a broken manifest, or no rows yet.
        MissingExtraError: DuckDB is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        store = Store.open(folder)
        self.folder, self.manifest, self.plan_text = store.folder, store.manifest, store.plan_text
        self.plan = _toml(self.folder / PLAN, self.plan_text)
        self.db = require("duckdb", "bench").connect()
        self.files = self.parts(ROWS)
        self._load()

    def _load(self) -> None:
        if not self.files:
            raise DataError(f"{self.folder} has no rows yet; run `seewhy bench resume {self.folder}` first")
        names = ", ".join(f'"{name}"' for name in COLUMNS if name != "value")
        key = ", ".join(f'"{name}"' for name in KEY)
        # two processes may have written the same row
        self.ask(
            f"CREATE TABLE scores AS SELECT DISTINCT ON ({key}) {names}, CASE WHEN isfinite(value) THEN value END "
            "AS value FROM read_parquet(?, union_by_name=true)",
            self.files,
        )

    def parts(self, kind: str) -> list[str]:
        """The Parquet files of rows, maps or images."""
        return [str(path) for path in sorted((self.folder / kind).glob("*.parquet"))]

    def ask(self, sql: str, *values: Any) -> list[tuple]:
        """Rows of an SQL query over the table `scores`.

        Raises:
            DataError: a part cannot be read.
        """
        return self._answer(sql, values).fetchall()

    def arrays(self, sql: str, *values: Any) -> dict[str, Any]:
        """Columns of an SQL query as numpy arrays; errors as for `ask`."""
        return self._answer(sql, values).fetchnumpy()

    def _answer(self, sql: str, values: tuple[Any, ...]) -> Any:
        try:
            return self.db.execute(sql, list(values))
        except require("duckdb", "bench").Error as error:
            raise DataError(
                f"{self.folder} cannot be read ({str(error).splitlines()[0]}); run `seewhy bench resume "
                f"{self.folder}`, which makes broken parts again"
            ) from error

    @cached_property
    def panels(self) -> list[Panel]:
        """In the order of the plan's models."""
        found = [Panel(*row) for row in self.ask("SELECT DISTINCT model, data, split FROM scores WHERE metric <> ''")]
        order = list(_labeled(self.manifest.get("models")))
        return sorted(found, key=lambda p: (order.index(p.model) if p.model in order else len(order), p.key))

    @cached_property
    def methods(self) -> dict[str, MethodInfo]:
        """All methods that have rows, in the order of the plan."""
        about = _labeled(self.manifest.get("methods"))
        here = [
            m for (m,) in self.ask("SELECT DISTINCT method FROM scores WHERE method <> '' AND metric <> '' ORDER BY 1")
        ]
        return {
            m: _method(m, about.get(m, {}))
            for m in [*(m for m in about if m in here), *(m for m in here if m not in about)]
        }

    @cached_property
    def metrics(self) -> dict[str, MetricInfo]:
        """All metrics that have rows, each followed by its parts, in the order of the plan."""
        here = {m for (m,) in self.ask("SELECT DISTINCT metric FROM scores WHERE method <> '' AND metric <> ''")}
        found = {}
        for label, about in _labeled(self.manifest.get("metrics")).items():
            found.update({m.label: m for m in _metric(label, about)})
        rest = {m: MetricInfo(m, m) for m in sorted(here - set(found))}
        return {
            label: m
            for label, m in {**found, **rest}.items()
            if (label.rpartition(".")[0] if m.whole else label) in here
        }


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is broken ({error}); copy the plan there again") from error


def _labeled(entries: Any) -> dict[str, dict]:
    """Entries by their labels: `{label: {...}}`, or a list of names or of tables with a label or name."""
    if isinstance(entries, dict):
        return {label: about if isinstance(about, dict) else {} for label, about in entries.items()}
    found = {}
    for entry in entries or ():
        about = entry if isinstance(entry, dict) else {}
        found[str(about.get("label") or about.get("name") or entry)] = about
    return found


def _method(label: str, about: dict) -> MethodInfo:
    card = about.get("card") or about
    title = card.get("title", label)
    if label != card.get("name", label):
        title = f"{title} ({label})"  # the same method with other options
    return MethodInfo(
        label,
        title,
        card.get("family") == "baseline",
        bool(card.get("signed")),
        card.get("citation", ""),
        str(about.get("cost") or card.get("cost") or ""),
        about.get("options") or {},
    )


def _metric(label: str, about: dict) -> list[MetricInfo]:
    card = about.get("card") or about
    title = card.get("title", label)
    if label != card.get("name", label):
        title = f"{title} ({label})"
    axis = about.get("axis")
    own = MetricInfo(
        label,
        title,
        card.get("property", ""),
        card.get("summary", ""),
        card.get("higher_is_better"),
        card.get("citation", ""),
        about.get("options") or {},
        axis,
        about.get("axis_title", ""),
    )
    made = [(part, better, "") for part, better in (card.get("parts") or {}).items()]
    made += [(whole, better, card.get("name", label)) for whole, better in (card.get("aggregates") or {}).items()]
    return [
        own,
        *(
            MetricInfo(
                f"{label}.{part}", f"{title}: {part}", own.family, "", better, "", {}, axis, own.axis_title, True, whole
            )
            for part, better, whole in made
        ),
    ]
