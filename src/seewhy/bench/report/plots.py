"""Curves with bands and distributions as small inline SVG: sharp, in the page's own colors by day and by night."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy import ndarray

from seewhy.bench import stats
from seewhy.bench.report.elements import Boxes, Charts
from seewhy.bench.report.leaderboard import Score, dense
from seewhy.bench.report.run_data import MetricInfo, Panel, Run

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 8, 34
DRAWN = 7  # methods in one chart: as many colors as people can tell apart
DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 4", "4 2", "1 2")
POINTS = 60


def curves(run: Run, panel: Panel, scores: Sequence[Score]) -> Charts | None:
    """Mean curves of each metric that draws any, with 95 % bands; the best methods where there are many."""
    metrics = [
        m
        for (m,) in run.ask(
            "SELECT DISTINCT metric FROM read_parquet(?, union_by_name=true) WHERE curve IS NOT NULL AND method <> '' "
            "AND model = ? AND data = ? AND split = ?",
            run.files,
            *panel.key,
        )
    ]
    metrics = [info for label, info in run.metrics.items() if label in metrics]
    if not metrics:
        return None
    methods = _best(run, scores, metrics[0])
    charts = [
        (f"{info.title} {info.arrow}".strip(), _chart(info, methods, *_means(run, panel, info, methods)))
        for info in metrics
    ]
    left = len(run.methods) - len(methods)
    note = "Bands: 95 % of the mean, pointwise, images as units." + (
        f" Not drawn, but in the tables: {left} further method{'s' * (left > 1)}." if left else ""
    )
    return Charts(
        charts, [(_sample(k), run.methods[m].title) for k, m in enumerate(methods)], title=panel.model, note=note
    )


def _best(run: Run, scores: Sequence[Score], info: MetricInfo) -> list[str]:
    own = info.label.split(".")[0] if info.part else info.label
    order = sorted(
        (s for s in scores if s.metric in (own, info.label) and s.rank), key=lambda s: (s.metric != own, s.rank)
    )
    names = list(dict.fromkeys([*(s.method for s in order), *run.methods]))[:DRAWN]
    return [m for m in run.methods if m in names]


def _means(run: Run, panel: Panel, info: MetricInfo, methods: list[str]) -> tuple[ndarray, ndarray]:
    """(methods, points) means and half-widths; NaN for a method without curves."""
    run.db.execute(
        "CREATE OR REPLACE TEMP TABLE drawn AS WITH lines AS (SELECT DISTINCT ON (entry, method) sample, "
        "method, curve FROM read_parquet(?, union_by_name=true) WHERE curve IS NOT NULL AND model = ? AND "
        "data = ? AND split = ? AND metric = ? AND list_contains(?, method)) SELECT sample, method, "
        "unnest(curve) AS y, generate_subscripts(curve, 1) - 1 AS k FROM lines",
        [run.files, *panel.key, info.label, methods],
    )
    run.db.execute(
        "CREATE OR REPLACE TEMP TABLE seen AS SELECT sample, row_number() OVER () - 1 AS i FROM "
        "(SELECT DISTINCT sample FROM drawn)"
    )
    images, points = run.ask("SELECT (SELECT count(*) FROM seen), (SELECT coalesce(max(k), -1) + 1 FROM drawn)")[0]
    found = run.arrays(
        "SELECT i, list_position(?, method) - 1 AS m, k, sum(y) AS total, count(*) AS n FROM drawn "
        "JOIN seen USING (sample) WHERE isfinite(y) GROUP BY ALL",
        methods,
    )
    found["j"] = found["m"] * points + found["k"]
    mean, half = stats.band(*dense(found, images, len(methods) * points))
    return mean.reshape(len(methods), points), half.reshape(len(methods), points)


def _chart(info: MetricInfo, methods: list[str], means: ndarray, halves: ndarray) -> Markup:
    axis = info.axis if info.axis and len(info.axis) == means.shape[1] else list(range(means.shape[1]))
    x = _scale(np.asarray(axis, float), LEFT, WIDTH - RIGHT)
    around = np.stack([means - np.nan_to_num(halves), means + np.nan_to_num(halves)])
    y = _scale(around, HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, y, info.axis_title)]
    for k in range(len(methods)):
        good = ~np.isnan(means[k])
        xs = [x.place(v) for v in np.asarray(axis, float)[good]]
        low, high, mid = (([y.place(v) for v in row[good]]) for row in (around[0, k], around[1, k], means[k]))
        color = f"var(--c{k % DRAWN})"
        outline = _path([*zip(xs, low, strict=True), *reversed(list(zip(xs, high, strict=True)))])
        parts.append(f'<polygon points="{outline}" fill="{color}" opacity=".15"/>')
        parts.append(
            f'<polyline points="{_path(zip(xs, mid, strict=True))}" fill="none" stroke="{color}" '
            f'stroke-width="2" stroke-dasharray="{DASHES[k % DRAWN]}"/>'
        )
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">' + "".join(parts) + "</svg>")


class _scale:  # noqa: N801
    """Values to places on a line."""

    def __init__(self, values: ndarray, start: float, end: float) -> None:
        some = values[np.isfinite(values)]
        self.low, self.high = (float(some.min()), float(some.max())) if some.size else (0.0, 1.0)
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.start, self.end = start, end

    def place(self, value: float) -> float:
        return round(self.start + (self.end - self.start) * (float(value) - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[float]:
        step = 10 ** np.floor(np.log10((self.high - self.low) / 2))
        step = next(step * f for f in (1, 2, 5, 10) if (self.high - self.low) / (step * f) <= 5)
        first = int(np.ceil(self.low / step - 1e-9))
        return [float(step * k) for k in range(first, int(np.floor(self.high / step + 1e-9)) + 1)]


def _grid(x: _scale, y: _scale, title: str) -> str:
    lines = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.place(t)}" y2="{y.place(t)}" stroke="var(--line)"/>'
        f'<text x="{LEFT - 6}" y="{y.place(t) + 4}" text-anchor="end">{t:.4g}</text>'
        for t in y.ticks
    ]
    lines += [f'<text x="{x.place(t)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{t:.4g}</text>' for t in x.ticks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = Markup.escape(title)
    return "".join(lines) + f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>'


def _path(points) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _sample(k: int) -> Markup:
    return Markup(
        '<svg width="34" height="10" aria-hidden="true"><line x1="0" x2="34" y1="5" y2="5" stroke-width="3" '
        f'stroke="var(--c{k % DRAWN})" stroke-dasharray="{DASHES[k % DRAWN]}"/></svg>'
    )


def distributions(run: Run, panel: Panel, info: MetricInfo) -> Boxes | None:
    """Quartiles (box), 5th to 95th percentile (line), median (bar) and some of the maps (dots) for each method.

    None for a score that is 0 or 1 throughout: its mean in the table says all.
    """
    where = "model = ? AND data = ? AND split = ? AND metric = ? AND method <> '' AND value IS NOT NULL"
    quantiles = dict(
        run.ask(
            f"SELECT method, quantile_cont(value, [0.05, 0.25, 0.5, 0.75, 0.95]) FROM scores "
            f"WHERE {where} GROUP BY method",
            *panel.key,
            info.label,
        )
    )
    if not quantiles or not run.ask(
        f"SELECT 1 FROM scores WHERE {where} AND value NOT IN (0, 1) LIMIT 1", *panel.key, info.label
    ):
        return None
    dots: dict[str, list[float]] = {}
    for method, value in run.ask(
        f"SELECT method, value FROM scores WHERE {where} QUALIFY row_number() OVER "
        "(PARTITION BY method ORDER BY hash(entry)) <= ?",
        *panel.key,
        info.label,
        POINTS,
    ):
        dots.setdefault(method, []).append(value)
    scale = _scale(np.concatenate([*quantiles.values(), *dots.values()]), 1, 99)
    rows = [(run.methods[m].title, _box(scale, quantiles[m], dots[m])) for m in run.methods if m in quantiles]
    name = f"{info.title} {info.arrow}".strip()
    return Boxes([*rows, ("", _ruler(scale))], title=name if len(run.panels) == 1 else f"{name} · {panel.model}")


def _box(scale: _scale, quantiles: Sequence[float], dots: Sequence[float]) -> Markup:
    a, b, c, d, e = (scale.place(q) for q in quantiles)
    marks = "".join(
        f'<circle cx="{scale.place(v)}%" cy="{4 + 16 * ((k * 0.618) % 1):.1f}" r="1.8"/>' for k, v in enumerate(dots)
    )
    return Markup(
        f'<svg height="24" aria-hidden="true"><g fill="var(--quiet)" opacity=".35">{marks}</g>'
        f'<line x1="{a}%" x2="{e}%" y1="12" y2="12" stroke="var(--ink)"/>'
        f'<rect x="{b}%" width="{max(d - b, 0.2):.2f}%" y="5" height="14" fill="var(--c0)" opacity=".45"/>'
        f'<line x1="{c}%" x2="{c}%" y1="3" y2="21" stroke="var(--ink)" stroke-width="3"/></svg>'
    )


def _ruler(scale: _scale) -> Markup:
    ticks = "".join(f'<text x="{scale.place(t)}%" y="12" text-anchor="middle">{t:.4g}</text>' for t in scale.ticks)
    return Markup(f'<svg height="16" aria-hidden="true">{ticks}</svg>')
