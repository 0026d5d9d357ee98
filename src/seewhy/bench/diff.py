"""The changes from one run to another, map by map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seewhy.bench import stats
from seewhy.bench.report.leaderboard import to_matrices
from seewhy.bench.report.run_data import RunData
from seewhy.bench.target_words import as_target_word

ENVIRONMENT = ("versions", "hardware")
PROTOCOL = ("seed", "data", "protocol", "models", "methods", "metrics")
IDENTITY = ("model", "data", "split", "method", "metric")


@dataclass(frozen=True)
class ScoreChange:
    """One model, method and metric in both runs, over the maps that both have.

    Attributes:
        model: Label of the model.
        data: Name of the dataset.
        split: Split of the dataset.
        method: Label of the method.
        metric: Label of the metric.
        n: Common maps.
        before: Mean over the common maps of the first run.
        after: Mean over the common maps of the second run.
        difference: after − before.
        low: Lower end of its 95 % bootstrap interval over images.
        high: Upper end of that interval.
        p: Two-sided p-value, Holm-adjusted over all changes; None below `stats.FEWEST_IMAGES` images.
        better: Whether the second run is better; None where no direction is, or nothing changed.
    """

    model: str
    data: str
    split: str
    method: str
    metric: str
    n: int
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    better: bool | None

    @property
    def significant(self) -> bool:
        """After Holm's correction, at 5 %."""
        return self.p is not None and self.p < stats.ALPHA


@dataclass(frozen=True)
class RunComparison:
    """Two runs compared.

    Attributes:
        protocol: Differences of the protocol (key, first, second): then the numbers answer different questions.
        environment: Differences of versions and hardware.
        only: Model, method and metric that one run has alone, and which run.
        changes: Significant ones first, then by p and size.
    """

    protocol: list[tuple[str, Any, Any]]
    environment: list[tuple[str, Any, Any]]
    only: list[tuple[str, str]]
    changes: list[ScoreChange]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "protocol": self.protocol,
            "environment": self.environment,
            "only": self.only,
            "changes": [{**asdict(c), "significant": c.significant} for c in self.changes],
        }


def compare_runs(first: str | Path, second: str | Path, seed: int = 0) -> RunComparison:
    """Compare two runs over common model, data, split, entry, method and metric.

    Args:
        first: Folder of a run.
        second: Folder of another run.
        seed: Seed of the bootstrap.

    Raises:
        DataError: When one of the folders holds no run.
        MissingExtraError: When DuckDB is not installed.
    """
    a, b = RunData(first), RunData(second)
    protocol = list(_differences(_protocol(a), _protocol(b)))
    environment = list(
        _differences({k: a.manifest.get(k) for k in ENVIRONMENT}, {k: b.manifest.get(k) for k in ENVIRONMENT})
    )
    return RunComparison(protocol, environment, _only(a, b), _changes(a, b, seed))


def _protocol(run: RunData) -> dict[str, Any]:
    """Return what a run was asked, its target in today's words."""
    values = {key: run.manifest.get(key) for key in PROTOCOL}
    protocol = values["protocol"]
    if protocol and "target" in protocol:
        values["protocol"] = {**protocol, "target": as_target_word(protocol["target"])}
    return values


def _differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield leaves that differ, by dotted key; entries of lists by their label or name."""
    a, b = _by_label(a), _by_label(b)
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys([*a, *b]):
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}".lstrip("."))
    elif a != b:
        yield key, a, b


def _by_label(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return {str(entry.get("label") or entry.get("name")): entry for entry in value}
    return value


def _only(a: RunData, b: RunData) -> list[tuple[str, str]]:
    sql = f"SELECT DISTINCT {', '.join(IDENTITY)} FROM scores WHERE method <> '' AND metric <> '' ORDER BY ALL"
    left, right = a.query(sql), b.query(sql)
    return [(" · ".join(row), "first") for row in left if row not in set(right)] + [
        (" · ".join(row), "second") for row in right if row not in set(left)
    ]


def _changes(a: RunData, b: RunData, seed: int) -> list[ScoreChange]:
    columns, arrays = _paired(a, b)
    if not columns:
        return []
    sums, counts = to_matrices(arrays, int(arrays["i"].max()) + 1, len(columns))
    intervals = stats.intervals(sums, counts, stats.resamples_for(len(columns)), seed)
    adjusted = stats.holm(intervals.p)
    changes = []
    for j, (model, data, split, method, metric, n, before, after) in enumerate(columns):
        info = b.metrics.get(metric) or a.metrics[metric]
        difference = float(intervals.mean[j])
        better = None
        if info.higher_is_better is not None and difference:
            better = (difference > 0) == info.higher_is_better
        low, high, p = (None if np.isnan(v) else float(v) for v in (intervals.low[j], intervals.high[j], adjusted[j]))
        changes.append(
            ScoreChange(model, data, split, method, metric, n, before, after, difference, low, high, p, better)
        )
    return sorted(changes, key=lambda c: (not c.significant, 2 if c.p is None else c.p, -_size(c)))


def _size(change: ScoreChange) -> float:
    """Return the difference in units of its interval."""
    if change.low is None or change.high is None or change.high == change.low:
        return abs(change.difference)
    return abs(change.difference) / (change.high - change.low)


def _paired(a: RunData, b: RunData) -> tuple[list[tuple[Any, ...]], dict[str, np.ndarray]]:
    """Return for each common cell its identity, number of maps and both means; and the differences summed by image."""
    keys = ", ".join(IDENTITY)
    rows = b.database.sql(f"SELECT {keys}, entry, value FROM scores WHERE method <> '' AND value IS NOT NULL")
    a.database.register("other", rows.to_arrow_table())
    a.database.execute(
        f"CREATE TEMP TABLE both_runs AS SELECT {keys}, sample, scores.value AS x, other.value AS y FROM "
        f"scores JOIN other USING ({keys}, entry) WHERE method <> '' AND scores.value IS NOT NULL"
    )
    a.database.execute(
        f"CREATE TEMP TABLE common AS SELECT {keys}, count(*) AS n, avg(x) AS before, avg(y) AS after, "
        f"row_number() OVER (ORDER BY {keys}) - 1 AS j FROM both_runs GROUP BY {keys}"
    )
    arrays = a.query_arrays(
        "WITH images AS (SELECT sample, row_number() OVER () - 1 AS i FROM (SELECT DISTINCT sample FROM both_runs)) "
        "SELECT i, j, sum(y - x) AS total, count(*) AS n FROM both_runs JOIN images USING (sample) JOIN common "
        f"USING ({keys}) GROUP BY i, j"
    )
    return a.query(f"SELECT {keys}, n, before, after FROM common ORDER BY j"), arrays


def format_comparison(comparison: RunComparison) -> Iterator[str]:
    """Yield the comparison in words: the protocol, the environment, then the changes."""
    yield (
        "DIFFERENT PROTOCOLS: the numbers answer different questions"
        if comparison.protocol
        else "The protocols are the same."
    )
    for key, before, after in (*comparison.protocol, *comparison.environment):
        yield f"  {key}: {before} -> {after}"
    for name, which in comparison.only:
        yield f"  only in the {which} run: {name}"
    significant = sum(change.significant for change in comparison.changes)
    judged = sum(change.p is not None for change in comparison.changes)
    yield (
        f"{significant} of {judged} scores changed significantly (paired bootstrap over common images, Holm, 5 %)."
        if judged
        else f"No verdicts: fewer than {stats.FEWEST_IMAGES} images are common to both runs."
    )
    for change in comparison.changes:
        yield "  " + _line(change)


def _line(change: ScoreChange) -> str:
    mark = "*" if change.significant else " "
    verdict = {True: " better", False: " worse", None: ""}[change.better]
    interval = ""
    if change.low is not None and change.high is not None:
        low, high = (round(end, 12) + 0.0 for end in (change.low, change.high))  # no -7e-18
        interval = f" [{low:+.4g}, {high:+.4g}]"
    p = "" if change.p is None else f", p {change.p:.2g}"
    return (
        f"{mark} {change.model} · {change.method} · {change.metric}: {change.before:.4g} -> {change.after:.4g}, "
        f"{change.difference:+.4g}{interval}{verdict}{p}, n {change.n}"
    )
