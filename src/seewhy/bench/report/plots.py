"""Curves with bands and distributions as small inline SVG: sharp, in the page's own colors by day and by night."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup
from numpy import ndarray

from seewhy.bench import stats
from seewhy.bench.parts import READ
from seewhy.bench.report.elements import BoxPlots, LineCharts
from seewhy.bench.report.infos import MetricInfo, Panel
from seewhy.bench.report.leaderboard import Score, to_matrices
from seewhy.bench.report.run_data import RunData

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 8, 34
MOST_LINES = 7
"""Methods in one chart: as many colors as people can tell apart."""

DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 4", "4 2", "1 2")
MOST_DOTS = 60
"""Maps of a method that are drawn as dots."""


def curves(run: RunData, panel: Panel, scores: Sequence[Score]) -> LineCharts | None:
    """Return mean curves of each metric that has any, with 95 % bands; of the best methods where there are many."""
    rows = run.query(
        f"SELECT DISTINCT metric FROM {READ} WHERE curve IS NOT NULL AND method <> '' "
        "AND model = ? AND data = ? AND split = ?",
        run.files,
        *panel.key,
    )
    with_curves = {metric for (metric,) in rows}
    metrics = [info for label, info in run.metrics.items() if label in with_curves]
    if not metrics:
        return None
    methods = _best(run, scores, metrics[0])
    charts = [(info.heading, _chart(info, methods, *_means(run, panel, info, methods))) for info in metrics]
    left = len(run.methods) - len(methods)
    note = "Bands: 95 % of the mean, pointwise, images as units." + (
        f" Not drawn, but in the tables: {left} further method{'s' * (left > 1)}." if left else ""
    )
    return LineCharts(
        charts, [(_legend_line(k), run.methods[m].title) for k, m in enumerate(methods)], title=panel.model, note=note
    )


def _best(run: RunData, scores: Sequence[Score], info: MetricInfo) -> list[str]:
    own = info.label.split(".")[0] if info.is_part else info.label
    order = sorted(
        (s for s in scores if s.metric in (own, info.label) and s.rank), key=lambda s: (s.metric != own, s.rank)
    )
    names = list(dict.fromkeys([*(s.method for s in order), *run.methods]))[:MOST_LINES]
    return [m for m in run.methods if m in names]


def _means(run: RunData, panel: Panel, info: MetricInfo, methods: list[str]) -> tuple[ndarray, ndarray]:
    """Return means and half-widths (methods × points); NaN for a method without curves."""
    run.query(
        "CREATE OR REPLACE TEMP TABLE drawn AS WITH lines AS (SELECT DISTINCT ON (entry, method) sample, "
        f"method, curve FROM {READ} WHERE curve IS NOT NULL AND model = ? AND "
        "data = ? AND split = ? AND metric = ? AND list_contains(?, method)) SELECT sample, method, "
        "unnest(curve) AS y, generate_subscripts(curve, 1) - 1 AS k FROM lines",
        run.files,
        *panel.key,
        info.label,
        methods,
    )
    run.query(
        "CREATE OR REPLACE TEMP TABLE curve_images AS SELECT sample, row_number() OVER (ORDER BY sample) - 1 AS i FROM "
        "(SELECT DISTINCT sample FROM drawn)"
    )
    images, points = run.query(
        "SELECT (SELECT count(*) FROM curve_images), (SELECT coalesce(max(k), -1) + 1 FROM drawn)"
    )[0]
    cells = run.query_arrays(
        "SELECT i, list_position(?, method) - 1 AS m, k, sum(y) AS total, count(*) AS n FROM drawn "
        "JOIN curve_images USING (sample) WHERE isfinite(y) GROUP BY ALL",
        methods,
    )
    cells["j"] = cells["m"] * points + cells["k"]
    mean, half = stats.band(*to_matrices(cells, images, len(methods) * points))
    return mean.reshape(len(methods), points), half.reshape(len(methods), points)


def _chart(info: MetricInfo, methods: list[str], means: ndarray, halves: ndarray) -> Markup:
    axis = info.axis if info.axis and len(info.axis) == means.shape[1] else list(range(means.shape[1]))
    x = _Scale(np.asarray(axis, float), LEFT, WIDTH - RIGHT)
    around = np.stack([means - np.nan_to_num(halves), means + np.nan_to_num(halves)])
    y = _Scale(around, HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, y, info.axis_title)]
    for k in range(len(methods)):
        good = ~np.isnan(means[k])
        xs = [x.position(v) for v in np.asarray(axis, float)[good]]
        low, high, mid = (([y.position(v) for v in row[good]]) for row in (around[0, k], around[1, k], means[k]))
        color = f"var(--c{k % MOST_LINES})"
        outline = _svg_points([*zip(xs, low, strict=True), *reversed(list(zip(xs, high, strict=True)))])
        parts.append(f'<polygon points="{outline}" fill="{color}" opacity=".15"/>')
        parts.append(
            f'<polyline points="{_svg_points(zip(xs, mid, strict=True))}" fill="none" stroke="{color}" '
            f'stroke-width="2" stroke-dasharray="{DASHES[k % MOST_LINES]}"/>'
        )
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">' + "".join(parts) + "</svg>")


class _Scale:
    """Maps values to positions on a line."""

    def __init__(self, values: ndarray, start: float, end: float) -> None:
        some = values[np.isfinite(values)]
        self.low, self.high = (float(some.min()), float(some.max())) if some.size else (0.0, 1.0)
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.start, self.end = start, end

    def position(self, value: float) -> float:
        return round(self.start + (self.end - self.start) * (float(value) - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[float]:
        step = 10 ** np.floor(np.log10((self.high - self.low) / 2))
        step = next(step * f for f in (1, 2, 5, 10) if (self.high - self.low) / (step * f) <= 5)
        first = int(np.ceil(self.low / step - 1e-9))
        return [float(step * k) for k in range(first, int(np.floor(self.high / step + 1e-9)) + 1)]


def _grid(x: _Scale, y: _Scale, title: str) -> str:
    lines = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.position(t)}" y2="{y.position(t)}" stroke="var(--line)"/>'
        f'<text x="{LEFT - 6}" y="{y.position(t) + 4}" text-anchor="end">{t:.4g}</text>'
        for t in y.ticks
    ]
    lines += [
        f'<text x="{x.position(t)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{t:.4g}</text>' for t in x.ticks
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = Markup.escape(title)
    return "".join(lines) + f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>'


def _svg_points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _legend_line(k: int) -> Markup:
    return Markup(
        '<svg width="34" height="10" aria-hidden="true"><line x1="0" x2="34" y1="5" y2="5" stroke-width="3" '
        f'stroke="var(--c{k % MOST_LINES})" stroke-dasharray="{DASHES[k % MOST_LINES]}"/></svg>'
    )


def distributions(run: RunData, panel: Panel, info: MetricInfo) -> BoxPlots | None:
    """Return quartiles (box), 5th to 95th percentile (line), median (bar) and some maps (dots) for each method.

    None for a score that is 0 or 1 throughout: its mean in the table says all.
    """
    where = "model = ? AND data = ? AND split = ? AND metric = ? AND method <> '' AND value IS NOT NULL"
    quantiles = dict(
        run.query(
            f"SELECT method, quantile_cont(value, [0.05, 0.25, 0.5, 0.75, 0.95]) FROM scores "
            f"WHERE {where} GROUP BY method",
            *panel.key,
            info.label,
        )
    )
    if not quantiles or not run.query(
        f"SELECT 1 FROM scores WHERE {where} AND value NOT IN (0, 1) LIMIT 1", *panel.key, info.label
    ):
        return None
    dots: dict[str, list[float]] = {}
    for method, value in run.query(
        f"SELECT method, value FROM scores WHERE {where} QUALIFY row_number() OVER "
        "(PARTITION BY method ORDER BY hash(entry), entry) <= ?",
        *panel.key,
        info.label,
        MOST_DOTS,
    ):
        dots.setdefault(method, []).append(value)
    scale = _Scale(np.concatenate([*quantiles.values(), *dots.values()]), 1, 99)
    rows = [(run.methods[m].title, _box(scale, quantiles[m], dots[m])) for m in run.methods if m in quantiles]
    name = info.heading
    return BoxPlots([*rows, ("", _ruler(scale))], title=name if len(run.panels) == 1 else f"{name} · {panel.model}")


def _box(scale: _Scale, quantiles: Sequence[float], dots: Sequence[float]) -> Markup:
    a, b, c, d, e = (scale.position(q) for q in quantiles)
    marks = "".join(
        f'<circle cx="{scale.position(v)}%" cy="{4 + 16 * ((k * 0.618) % 1):.1f}" r="1.8"/>' for k, v in enumerate(dots)
    )
    return Markup(
        f'<svg height="24" aria-hidden="true"><g fill="var(--quiet)" opacity=".35">{marks}</g>'
        f'<line x1="{a}%" x2="{e}%" y1="12" y2="12" stroke="var(--ink)"/>'
        f'<rect x="{b}%" width="{max(d - b, 0.2):.2f}%" y="5" height="14" fill="var(--c0)" opacity=".45"/>'
        f'<line x1="{c}%" x2="{c}%" y1="3" y2="21" stroke="var(--ink)" stroke-width="3"/></svg>'
    )


def _ruler(scale: _Scale) -> Markup:
    ticks = "".join(f'<text x="{scale.position(t)}%" y="12" text-anchor="middle">{t:.4g}</text>' for t in scale.ticks)
    return Markup(f'<svg height="16" aria-hidden="true">{ticks}</svg>')
