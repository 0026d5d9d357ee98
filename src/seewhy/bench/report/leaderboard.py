"""The numbers of a run: for each model, method and metric a mean, an interval, a rank and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from seewhy.bench import stats
from seewhy.bench.report.aggregates import aggregate_with_interval, load_values
from seewhy.bench.report.infos import Panel
from seewhy.bench.report.run_data import RunData

OF_PANEL = "model = ? AND data = ? AND split = ? AND method <> '' AND metric <> ''"
Column = tuple[str, str]
"""Metric and method."""


@dataclass(frozen=True)
class Score:
    """One cell of the leaderboard.

    Attributes:
        panel: The model and its data.
        method: Label of the method.
        metric: Label of the metric.
        n: Maps with a value.
        images: Images that these maps are of.
        failed: Maps without a value.
        mean: Mean of the values.
        low: Lower end of the 95 % interval of the mean over resampled images.
        high: Upper end of that interval.
        rank: 1 for the best method; None where no direction is better, and for reference maps.
        leads: Whether this is the method that the others are compared with.
        gap: Mean difference to the leader over common maps, in the metric's unit; positive: the leader is better. A
            reference map may be better than the leader, and so may a method on those maps that both have.
        p: p-value of that gap, two-sided, Holm-adjusted over the methods of this metric.
        level: Whether it is not significantly worse than the leader; None where nothing can be said.
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
    def half_width(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def scores_of(panel: Panel, scores: Sequence[Score]) -> dict[tuple[str, str], Score]:
    """Return a model's scores by method and metric."""
    return {(score.method, score.metric): score for score in scores if score.panel == panel}


def methods_with_scores(
    run: RunData, panel_scores: Mapping[tuple[str, str], Score], by_metric: str | None = None
) -> list[str]:
    """Return the methods among a model's scores, in the plan's order, or by rank in a metric."""
    present = {method for method, _ in panel_scores}
    methods = [name for name in run.methods if name in present]
    if by_metric is None:
        return methods

    def position(name: str) -> float:
        score = panel_scores.get((name, by_metric))
        return math.inf if score is None or score.rank is None else score.rank

    return sorted(methods, key=position)


def compute_leaderboard(run: RunData, resamples: int = stats.RESAMPLES, seed: int = 0) -> list[Score]:
    """Compute all scores of a run, by panel, metric and method in the plan's order.

    Args:
        run: The run.
        resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
    """
    scores = []
    for panel in run.panels:
        scores += _PanelScores(run, panel, resamples, seed).compute()
        scores += _aggregate_scores(run, panel, seed)
    return scores


class _PanelScores:
    """Scores of one model; columns are pairs of metric and method."""

    def __init__(self, run: RunData, panel: Panel, resamples: int, seed: int) -> None:
        self.run = run
        self.panel = panel
        self.resamples = resamples
        self.seed = seed
        self.columns: list[Column] = [(metric, method) for metric in run.metrics for method in run.methods]
        self.images = self._number_images_and_columns()

    def compute(self) -> list[Score]:
        """Return the scores of all columns that have any value or failure."""
        sums, counts = self._sums()
        intervals = stats.intervals(sums, counts, self.resamples, self.seed)
        ranks = self._ranks(intervals.mean)
        leaders = self._leaders(ranks)
        gaps = self._gaps(leaders)
        failed = self._failed()
        scores = []
        for j, (metric, method) in enumerate(self.columns):
            n, missing = int(counts[:, j].sum()), failed.get((metric, method), 0)
            if not n and not missing:
                continue  # this method was not asked this metric
            gap, p = gaps.get(j, (None, None))
            scores.append(
                Score(
                    panel=self.panel,
                    method=method,
                    metric=metric,
                    n=n,
                    images=int((counts[:, j] > 0).sum()),
                    failed=missing,
                    mean=_none_if_nan(intervals.mean[j]),
                    low=_none_if_nan(intervals.low[j]),
                    high=_none_if_nan(intervals.high[j]),
                    rank=ranks[j],
                    leads=leaders[metric] == j,
                    gap=gap,
                    p=p,
                    level=None if p is None or gap is None else p >= stats.ALPHA or gap <= 0,
                )
            )
        return scores

    def _number_images_and_columns(self) -> int:
        """Create the tables `images` and `cells` with a number for each; return how many images there are."""
        run = self.run
        run.query(
            "CREATE OR REPLACE TEMP TABLE images AS SELECT sample, row_number() OVER (ORDER BY sample) - 1 AS i "
            f"FROM (SELECT DISTINCT sample FROM scores WHERE {OF_PANEL})",
            *self.panel.key,
        )
        run.query("CREATE OR REPLACE TEMP TABLE cells (metric VARCHAR, method VARCHAR, j BIGINT)")
        if self.columns:
            rows = [[*column, j] for j, column in enumerate(self.columns)]
            run.database.executemany("INSERT INTO cells VALUES (?, ?, ?)", rows)
        return run.query("SELECT count(*) FROM images")[0][0]

    def _sums(self) -> tuple[ndarray, ndarray]:
        cells = self.run.query_arrays(
            "SELECT i, j, sum(value) AS total, count(*) AS n FROM scores JOIN images USING (sample) "
            f"JOIN cells USING (metric, method) WHERE {OF_PANEL} AND value IS NOT NULL GROUP BY i, j",
            *self.panel.key,
        )
        return to_matrices(cells, self.images, len(self.columns))

    def _ranks(self, means: ndarray) -> list[int | None]:
        """Return the rank of each column within its metric; reference maps have none."""
        is_reference = [info.is_reference for info in self.run.methods.values()]
        ranks: list[int | None] = []
        by_metric = means.reshape(len(self.run.metrics), len(self.run.methods))
        for info, row in zip(self.run.metrics.values(), by_metric, strict=True):
            ranks += stats.ranks(np.where(is_reference, np.nan, row), info.higher_is_better)
        return ranks

    def _leaders(self, ranks: Sequence[int | None]) -> dict[str, int | None]:
        """Return the column of each metric's best method; of equal ones the plan's first."""
        leaders: dict[str, int | None] = dict.fromkeys(self.run.metrics)
        for j, (metric, _) in reversed(list(enumerate(self.columns))):
            if ranks[j] == 1:
                leaders[metric] = j
        return leaders

    def _gaps(self, leaders: Mapping[str, int | None]) -> dict[int, tuple[float, float | None]]:
        """Return by column how far it is behind its metric's leader over their common maps, and the adjusted p."""
        run, key = self.run, self.panel.key
        run.query("CREATE OR REPLACE TEMP TABLE leaders (metric VARCHAR, method VARCHAR)")
        rows = [[metric, self.columns[j][1]] for metric, j in leaders.items() if j is not None]
        if not rows:
            return {}
        run.database.executemany("INSERT INTO leaders VALUES (?, ?)", rows)
        cells = run.query_arrays(
            "WITH best AS (SELECT s.entry, s.metric, s.value AS top FROM scores s JOIN leaders USING (metric, method) "
            "WHERE model = ? AND data = ? AND split = ? AND value IS NOT NULL) "
            "SELECT i, j, sum(top - value) AS total, count(*) AS n FROM scores JOIN best USING (entry, metric) "
            f"JOIN images USING (sample) JOIN cells USING (metric, method) WHERE {OF_PANEL} AND value IS NOT NULL "
            "GROUP BY i, j",
            *key,
            *key,
        )
        sums, counts = to_matrices(cells, self.images, len(self.columns))
        resamples = stats.resamples_for(len(run.methods), self.resamples)
        intervals = stats.intervals(sums, counts, resamples, self.seed)
        gaps: dict[int, tuple[float, float | None]] = {}
        for metric, leader in leaders.items():
            others = [j for j, c in enumerate(self.columns) if c[0] == metric and j != leader and counts[:, j].any()]
            sign = 1 if run.metrics[metric].higher_is_better else -1
            for j, p in zip(others, stats.holm(intervals.p[others]), strict=True):
                gaps[j] = sign * float(intervals.mean[j]), _none_if_nan(p)
        return gaps

    def _failed(self) -> dict[Column, int]:
        rows = self.run.query(
            f"SELECT metric, method, count(*) FROM scores WHERE {OF_PANEL} AND value IS NULL GROUP BY ALL",
            *self.panel.key,
        )
        return {(metric, method): n for metric, method, n in rows}


def to_matrices(cells: Mapping[str, ndarray], images: int, columns: int) -> tuple[ndarray, ndarray]:
    """Return sums and counts as matrices (images × columns), from arrays i, j, total, n."""
    sums, counts = np.zeros((images, columns)), np.zeros((images, columns), np.int64)
    sums[cells["i"], cells["j"]] = cells["total"]
    counts[cells["i"], cells["j"]] = cells["n"]
    return sums, counts


def _aggregate_scores(run: RunData, panel: Panel, seed: int) -> list[Score]:
    """Return values that only a whole set has, with intervals from resampled images; gaps are not judged."""
    scores = []
    for info in (info for info in run.metrics.values() if info.aggregate_of):
        label, _, name = info.label.rpartition(".")
        inputs = {method: load_values(run, panel, method, info.aggregate_of, label) for method in run.methods}
        results = {
            method: aggregate_with_interval(info.aggregate_of, name, values, samples, seed=seed)
            for method, (values, samples) in inputs.items()
        }
        ranked = [np.nan if run.methods[method].is_reference else results[method][0] for method in results]
        for method, rank in zip(results, stats.ranks(np.array(ranked), info.higher_is_better), strict=True):
            values, samples = inputs[method]
            has_value = np.isfinite(values.get("", np.zeros(0)))
            if not has_value.any():
                continue
            mean, low, high = results[method]
            scores.append(
                Score(
                    panel=panel,
                    method=method,
                    metric=info.label,
                    n=int(has_value.sum()),
                    images=len(set(samples[has_value])),
                    failed=int((~has_value).sum()),
                    mean=_none_if_nan(mean),
                    low=_none_if_nan(low),
                    high=_none_if_nan(high),
                    rank=rank,
                )
            )
    return scores


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
