"""What changed between two runs, map by map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seewhy.bench import stats
from seewhy.bench.report.leaderboard import dense
from seewhy.bench.report.run_data import Run

ABOUT = ("versions", "hardware")
PROTOCOL = ("seed", "data", "protocol", "models", "methods", "metrics")
IDENTITY = ("model", "data", "split", "method", "metric")


@dataclass(frozen=True)
class Change:
    """One model, method and metric in both runs, over the maps that both have.

    Attributes:
        before, after: means over the n common maps of the first and of the second run.
        difference, low, high: after − before, with its 95 % bootstrap interval over images.
        p: two-sided, Holm-adjusted over all changes; None below `stats.FEWEST` images.
        better: whether the second run is better; None where no direction is, or nothing changed.
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
class Difference:
    """Two runs compared.

    Attributes:
        protocol: what of the protocol differs: (key, first, second). Then the numbers answer another question.
        surroundings: what else differs: versions and hardware.
        only: model, method and metric that one run has alone, and which run.
        changes: significant ones first, then by p and size.
    """

    protocol: list[tuple[str, Any, Any]]
    surroundings: list[tuple[str, Any, Any]]
    only: list[tuple[str, str]]
    changes: list[Change]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "protocol": self.protocol,
            "surroundings": self.surroundings,
            "only": self.only,
            "changes": [{**asdict(c), "significant": c.significant} for c in self.changes],
        }


def diff(first: str | Path, second: str | Path, seed: int = 0) -> Difference:
    """Compare two runs over common model, data, split, entry, method and metric.

    Raises:
        DataError: one of them is no run. MissingExtraError: DuckDB is not installed.
    """
    a, b = Run(first), Run(second)
    protocol = list(_differences({k: a.manifest.get(k) for k in PROTOCOL}, {k: b.manifest.get(k) for k in PROTOCOL}))
    around = list(_differences({k: a.manifest.get(k) for k in ABOUT}, {k: b.manifest.get(k) for k in ABOUT}))
    return Difference(protocol, around, _only(a, b), _changes(a, b, seed))


def _differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Leaves that differ, by dotted key; entries of lists by their label or name."""
    a, b = _named(a), _named(b)
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys([*a, *b]):
            yield from _differences(a.get(name), b.get(name), f"{key}.{name}".lstrip("."))
    elif a != b:
        yield key, a, b


def _named(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return {str(entry.get("label") or entry.get("name")): entry for entry in value}
    return value


def _only(a: Run, b: Run) -> list[tuple[str, str]]:
    sql = f"SELECT DISTINCT {', '.join(IDENTITY)} FROM scores WHERE method <> '' AND metric <> '' ORDER BY ALL"
    left, right = a.ask(sql), b.ask(sql)
    return [(" · ".join(row), "first") for row in left if row not in set(right)] + [
        (" · ".join(row), "second") for row in right if row not in set(left)
    ]


def _changes(a: Run, b: Run, seed: int) -> list[Change]:
    columns, arrays = _paired(a, b)
    if not columns:
        return []
    sums, counts = dense(arrays, int(arrays["i"].max()) + 1, len(columns))
    found = stats.intervals(sums, counts, stats.draws_for(len(columns)), seed)
    adjusted = stats.holm(found.p)
    changes = []
    for j, (*identity, n, before, after) in enumerate(columns):
        info = b.metrics.get(identity[-1]) or a.metrics[identity[-1]]
        difference = float(found.mean[j])
        better = None if info.higher_is_better is None or not difference else (difference > 0) == info.higher_is_better
        low, high, p = (None if np.isnan(v) else float(v) for v in (found.low[j], found.high[j], adjusted[j]))
        changes.append(Change(*identity, n, before, after, difference, low, high, p, better))
    return sorted(changes, key=lambda c: (not c.significant, 2 if c.p is None else c.p, -_size(c)))


def _size(change: Change) -> float:
    """The difference in units of its interval."""
    if change.low is None or change.high is None or change.high == change.low:
        return abs(change.difference)
    return abs(change.difference) / (change.high - change.low)


def _paired(a: Run, b: Run) -> tuple[list[tuple], dict[str, np.ndarray]]:
    """For each common cell its identity, number of maps and both means; and the differences summed by image."""
    keys = ", ".join(IDENTITY)
    rows = b.db.sql(f"SELECT {keys}, entry, value FROM scores WHERE method <> '' AND value IS NOT NULL")
    a.db.register("other", rows.to_arrow_table())
    a.db.execute(
        f"CREATE TEMP TABLE both_runs AS SELECT {keys}, sample, scores.value AS x, other.value AS y FROM "
        f"scores JOIN other USING ({keys}, entry) WHERE method <> '' AND scores.value IS NOT NULL"
    )
    a.db.execute(
        f"CREATE TEMP TABLE common AS SELECT {keys}, count(*) AS n, avg(x) AS before, avg(y) AS after, "
        f"row_number() OVER (ORDER BY {keys}) - 1 AS j FROM both_runs GROUP BY {keys}"
    )
    arrays = a.arrays(
        "WITH pictures AS (SELECT sample, row_number() OVER () - 1 AS i FROM (SELECT DISTINCT sample FROM both_runs)) "
        "SELECT i, j, sum(y - x) AS total, count(*) AS n FROM both_runs JOIN pictures USING (sample) JOIN common "
        f"USING ({keys}) GROUP BY i, j"
    )
    return a.ask(f"SELECT {keys}, n, before, after FROM common ORDER BY j"), arrays


def lines(found: Difference) -> Iterator[str]:
    """The comparison in words: the protocol, the surroundings, then the changes."""
    yield (
        "DIFFERENT PROTOCOLS: the numbers answer different questions"
        if found.protocol
        else "The protocols are the same."
    )
    for key, before, after in (*found.protocol, *found.surroundings):
        yield f"  {key}: {before} -> {after}"
    for name, which in found.only:
        yield f"  only in the {which} run: {name}"
    significant = sum(change.significant for change in found.changes)
    judged = sum(change.p is not None for change in found.changes)
    yield (
        f"{significant} of {judged} scores changed significantly (paired bootstrap over common images, Holm, 5 %)."
        if judged
        else f"No verdicts: fewer than {stats.FEWEST} images are common to both runs."
    )
    for change in found.changes:
        yield "  " + _line(change)


def _line(change: Change) -> str:
    mark = "*" if change.significant else " "
    verdict = {True: " better", False: " worse", None: ""}[change.better]
    ends = [] if change.low is None else [round(end, 12) + 0.0 for end in (change.low, change.high)]  # no -7e-18
    interval = f" [{ends[0]:+.4g}, {ends[1]:+.4g}]" if ends else ""
    p = "" if change.p is None else f", p {change.p:.2g}"
    return (
        f"{mark} {change.model} · {change.method} · {change.metric}: {change.before:.4g} -> {change.after:.4g}, "
        f"{change.difference:+.4g}{interval}{verdict}{p}, n {change.n}"
    )
