"""The numbers of a run: for each model, method and metric a mean, an interval, a rank and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from seewhy.bench import stats
from seewhy.bench.report import aggregates as whole
from seewhy.bench.report.run_data import Panel, Run

HERE = "model = ? AND data = ? AND split = ? AND method <> '' AND metric <> ''"


@dataclass(frozen=True)
class Score:
    """One cell of the table.

    Attributes:
        n, images: maps with a value, and the images that they are of.
        failed: maps without a value.
        low, high: 95 % interval of the mean over resampled images.
        rank: 1 for the best method; None where no direction is better, and for baselines.
        leads: whether this is the method that the others are compared with.
        gap: mean difference to the leader over common maps, in the metric's unit; positive: the leader is better. A
            baseline may be better than the leader, and so may a method on those maps that both have.
        p: of that gap, two-sided, Holm-adjusted over the methods of this metric.
        level: not significantly worse than the leader; None where nothing can be said.
    """

    panel: Panel
    method: str
    metric: str
    n: int
    images: int
    failed: int
    mean: float | None
    low: float | None
    high: float | None
    rank: int | None = None
    leads: bool = False
    gap: float | None = None
    p: float | None = None
    level: bool | None = None

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def scores_of(panel: Panel, scores: Sequence[Score]) -> dict[tuple[str, str], Score]:
    """A model's scores by method and metric."""
    return {(s.method, s.metric): s for s in scores if s.panel == panel}


def asked(run: Run, here: dict[tuple[str, str], Score], first: str | None = None) -> list[str]:
    """The methods among a model's scores, in the plan's order, or by rank in the metric `first`."""
    methods = [name for name in run.methods if any(method == name for method, _ in here)]

    def place(name: str) -> float:
        score = here.get((name, first))
        return math.inf if score is None or score.rank is None else score.rank

    return sorted(methods, key=place) if first else methods


def board(run: Run, draws: int = stats.DRAWS, seed: int = 0) -> list[Score]:
    """All scores of a run, by panel, metric and method in the plan's order."""
    return [score for panel in run.panels for score in (*_panel(run, panel, draws, seed), *_wholes(run, panel, seed))]


def _panel(run: Run, panel: Panel, draws: int, seed: int) -> list[Score]:
    columns = [(metric, method) for metric in run.metrics for method in run.methods]
    images = _index(run, panel, columns)
    sums, counts = _sums(run, panel, images, len(columns))
    found = stats.intervals(sums, counts, draws, seed)
    table = found.mean.reshape(len(run.metrics), len(run.methods))
    baseline = [info.baseline for info in run.methods.values()]
    ranks = [
        rank
        for info, row in zip(run.metrics.values(), table, strict=True)
        for rank in stats.ranks(np.where(baseline, np.nan, row), info.higher_is_better)
    ]
    leaders = {
        metric: next((j for j, c in enumerate(columns) if c[0] == metric and ranks[j] == 1), None)
        for metric in run.metrics
    }
    gaps = _gaps(run, panel, images, columns, leaders, stats.draws_for(len(run.methods), draws), seed)
    failed = _failed(run, panel)
    scores = []
    for j, (metric, method) in enumerate(columns):
        n, missing = int(counts[:, j].sum()), failed.get((metric, method), 0)
        if not n and not missing:
            continue  # this method was not asked this metric
        gap, p = gaps.get(j, (None, None))
        scores.append(
            Score(
                panel,
                method,
                metric,
                n,
                int((counts[:, j] > 0).sum()),
                missing,
                _number(found.mean[j]),
                _number(found.low[j]),
                _number(found.high[j]),
                ranks[j],
                leaders[metric] == j,
                gap,
                p,
                None if p is None else p >= stats.ALPHA or gap <= 0,
            )
        )
    return scores


def _wholes(run: Run, panel: Panel, seed: int) -> list[Score]:
    """Values that only a whole set has: made of all maps, intervals from resampled images; nothing is said of gaps."""
    scores = []
    for info in (m for m in run.metrics.values() if m.whole):
        label, _, name = info.label.rpartition(".")
        sets = {method: whole.columns(run, panel, method, info.whole, label) for method in run.methods}
        found = {method: whole.measured(info.whole, name, *held, seed=seed) for method, held in sets.items()}
        means = np.array([np.nan if run.methods[m].baseline else found[m][0] for m in found])
        for method, rank in zip(found, stats.ranks(means, info.higher_is_better), strict=True):
            values, samples = sets[method]
            known = np.isfinite(values.get("", np.zeros(0)))
            if known.any():
                scores.append(
                    Score(
                        panel,
                        method,
                        info.label,
                        int(known.sum()),
                        len(set(samples[known])),
                        int((~known).sum()),
                        *map(_number, found[method]),
                        rank,
                    )
                )
    return scores


def _index(run: Run, panel: Panel, columns: list[tuple[str, str]]) -> int:
    """Numbers for images and columns, as tables `images` and `cells`; returns how many images there are."""
    run.db.execute(
        "CREATE OR REPLACE TEMP TABLE images AS SELECT sample, row_number() OVER (ORDER BY sample) - 1 AS i "
        f"FROM (SELECT DISTINCT sample FROM scores WHERE {HERE})",
        list(panel.key),
    )
    run.db.execute("CREATE OR REPLACE TEMP TABLE cells (metric VARCHAR, method VARCHAR, j BIGINT)")
    if columns:
        run.db.executemany("INSERT INTO cells VALUES (?, ?, ?)", [[*c, j] for j, c in enumerate(columns)])
    return run.ask("SELECT count(*) FROM images")[0][0]


def _sums(run: Run, panel: Panel, images: int, columns: int) -> tuple[ndarray, ndarray]:
    found = run.arrays(
        "SELECT i, j, sum(value) AS total, count(*) AS n FROM scores JOIN images USING (sample) "
        f"JOIN cells USING (metric, method) WHERE {HERE} AND value IS NOT NULL GROUP BY i, j",
        *panel.key,
    )
    return dense(found, images, columns)


def dense(found: dict[str, ndarray], images: int, columns: int) -> tuple[ndarray, ndarray]:
    """Sums and counts as matrices, from columns i, j, total, n."""
    sums, counts = np.zeros((images, columns)), np.zeros((images, columns), np.int64)
    sums[found["i"], found["j"]], counts[found["i"], found["j"]] = found["total"], found["n"]
    return sums, counts


def _gaps(
    run: Run, panel: Panel, images: int, columns: list, leaders: dict[str, int | None], draws: int, seed: int
) -> dict[int, tuple[float, float | None]]:
    """By column: how far behind its metric's leader over the maps that both have, and the adjusted p."""
    run.db.execute("CREATE OR REPLACE TEMP TABLE leaders (metric VARCHAR, method VARCHAR)")
    known = [[metric, columns[j][1]] for metric, j in leaders.items() if j is not None]
    if not known:
        return {}
    run.db.executemany("INSERT INTO leaders VALUES (?, ?)", known)
    found = run.arrays(
        "WITH best AS (SELECT s.entry, s.metric, s.value AS top FROM scores s JOIN leaders USING (metric, method) "
        "WHERE model = ? AND data = ? AND split = ? AND value IS NOT NULL) "
        "SELECT i, j, sum(top - value) AS total, count(*) AS n FROM scores JOIN best USING (entry, metric) "
        f"JOIN images USING (sample) JOIN cells USING (metric, method) WHERE {HERE} AND value IS NOT NULL "
        "GROUP BY i, j",
        *panel.key,
        *panel.key,
    )
    sums, counts = dense(found, images, len(columns))
    result = stats.intervals(sums, counts, draws, seed)
    gaps: dict[int, tuple[float, float | None]] = {}
    for metric, leader in leaders.items():
        others = [j for j, c in enumerate(columns) if c[0] == metric and j != leader and counts[:, j].any()]
        sign = 1 if run.metrics[metric].higher_is_better else -1
        for j, p in zip(others, stats.holm(result.p[others]), strict=True):
            gaps[j] = sign * float(result.mean[j]), _number(p)
    return gaps


def _failed(run: Run, panel: Panel) -> dict[tuple[str, str], int]:
    rows = run.ask(
        f"SELECT metric, method, count(*) FROM scores WHERE {HERE} AND value IS NULL GROUP BY ALL", *panel.key
    )
    return {(metric, method): n for metric, method, n in rows}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
