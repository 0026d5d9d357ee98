"""A run's folder, opened for queries: plan, manifest, and the rows as a table of DuckDB."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy import ndarray

from seewhy.bench.parts import READ, ROWS, duckdb_files, is_whole
from seewhy.bench.report.infos import MethodInfo, MetricInfo, Panel, by_label, method_info, metric_infos
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
        broken = [path.name for path in sorted((self.folder / ROWS).glob("*.parquet")) if not is_whole(path)]
        if broken:
            raise DataError(
                f"{len(broken)} of {len(self.files)} parts of {self.folder} are broken ({broken[0]}); run "
                f"`seewhy bench resume {self.folder}`, which computes them again"
            )
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
        order = list(by_label(self.manifest.get("models")))

        def position(panel: Panel) -> tuple[int, tuple[str, str, str]]:
            return order.index(panel.model) if panel.model in order else len(order), panel.key

        return sorted((Panel(*row) for row in rows), key=position)

    @cached_property
    def methods(self) -> dict[str, MethodInfo]:
        """All methods that have rows, in the order of the plan."""
        described = by_label(self.manifest.get("methods"))
        rows = self.query("SELECT DISTINCT method FROM scores WHERE method <> '' AND metric <> '' ORDER BY 1")
        present = [method for (method,) in rows]
        labels = [label for label in described if label in present]
        labels += [label for label in present if label not in described]
        return {label: method_info(label, described.get(label, {})) for label in labels}

    @cached_property
    def metrics(self) -> dict[str, MetricInfo]:
        """All metrics that have rows, each followed by its parts, in the order of the plan."""
        rows = self.query("SELECT DISTINCT metric FROM scores WHERE method <> '' AND metric <> ''")
        present = {metric for (metric,) in rows}
        infos = {}
        for label, about in by_label(self.manifest.get("metrics")).items():
            infos.update({info.label: info for info in metric_infos(label, about)})
        for label in sorted(present - infos.keys()):
            infos[label] = MetricInfo(label=label, title=label)
        repeated = self._repeated_parts({label: info.is_part for label, info in infos.items()})
        return {
            label: info
            for label, info in infos.items()
            if (label.rpartition(".")[0] if info.aggregate_of else label) in present and label not in repeated
        }

    def _repeated_parts(self, is_part: Mapping[str, bool]) -> set[str]:
        """Return the parts of metrics that say what another metric says (`fidelity_discrimination.own`: fidelity)."""
        rows = self.query(
            "SELECT metric, count(value), round(avg(value), 6), round(min(value), 6), round(max(value), 6) FROM scores "
            "WHERE method <> '' AND metric <> '' GROUP BY metric HAVING min(value) < max(value)"
        )
        values = {metric: tuple(numbers) for metric, *numbers in rows}
        said = {values[metric] for metric in values if not is_part.get(metric, False)}
        return {metric for metric in values if is_part.get(metric, False) and values[metric] in said}


def _read_plan(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"cannot read {path} ({error}); copy the plan there again") from error
