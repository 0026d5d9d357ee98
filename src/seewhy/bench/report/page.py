"""The page of a report, section by section."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from seewhy.bench import stats
from seewhy.bench.report import galleries, plots
from seewhy.bench.report.elements import Cell, CodeListing, Definitions, NumberTable, PageBlock, PageSection, Sentences
from seewhy.bench.report.gaps import Gap, find_gaps
from seewhy.bench.report.infos import MetricInfo, Panel
from seewhy.bench.report.leaderboard import Score, methods_with_scores, scores_of
from seewhy.bench.report.published import published_sources, published_value
from seewhy.bench.report.run_data import RunData
from seewhy.bench.report.summary import (
    describe_failures,
    describe_leaders,
    describe_predictions,
    format_number,
)

LEGEND = (
    "Mean ± half-width of the 95 % interval (bootstrap over images). ★ best. ≈ not significantly worse than the "
    "best: two-sided paired bootstrap over the images that both have, Holm-adjusted over the methods, 5 %. "
    f"No interval below {stats.FEWEST_FOR_INTERVAL} images, no verdict below {stats.FEWEST_IMAGES}. "
    "Reference maps do not use the model and have no rank. "
    "↑ higher is better, ↓ lower is better."
)

MOST_TIED = 0.25
"""Share of maps with one and the same score, above which a metric tells maps apart badly."""


def sections(run: RunData, scores: Sequence[Score]) -> list[PageSection]:
    """Return all sections that the run has something for."""
    all_sections = [
        _summary(run, scores),
        _tables(run, scores),
        _curves(run, scores),
        _distributions(run),
        _extremes(run),
        _disagreements(run),
        _agreement(run, scores),
        _cost(run),
        _protocol(run),
    ]
    return [section for section in all_sections if section.blocks]


def intro(run: RunData) -> str:
    """Return a line about the run."""
    ((images, maps),) = run.query(
        "SELECT count(DISTINCT sample), count(DISTINCT (model, method, entry)) FROM scores "
        "WHERE method <> '' AND metric <> ''"
    )
    data = " and ".join(sorted({f"{p.data} {p.split}".strip() for p in run.panels}))
    began = str(run.manifest.get("started") or "")[:10]
    state = "" if run.manifest.get("finished", True) else " The run is not finished: these are the rows so far."
    references = sum(about.is_reference for about in run.methods.values())
    methods = _count(len(run.methods) - references, "method")
    if references:
        methods += f" and {_count(references, 'reference map')}"
    return (
        f"{methods}, {_count(len(run.panels), 'model')}, {_count(images, 'image')} of {data}, {_count(maps, 'map')}"
        f"{', begun ' + began if began else ''}.{state}"
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _summary(run: RunData, scores: Sequence[Score]) -> PageSection:
    blocks: list[PageBlock] = [
        Sentences([*describe_leaders(run, panel, scores), *describe_predictions(run, panel)], title=panel.title)
        for panel in run.panels
    ]
    return PageSection("Summary", [*blocks, Sentences(describe_failures(run), title="Failures")])


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tables(run: RunData, scores: Sequence[Score]) -> PageSection:
    blocks = [block for panel in run.panels for block in _panel_tables(run, panel, scores)]
    return PageSection("Tables", blocks, " ".join([LEGEND, *(f"Paper: {text}." for text in published_sources(run))]))


def _panel_tables(run: RunData, panel: Panel, scores: Sequence[Score]) -> Iterator[PageBlock]:
    by_column = scores_of(panel, scores)
    properties = dict.fromkeys(info.property_name for info in run.metrics.values())
    for name in properties:
        metrics = [
            m for m in run.metrics.values() if m.property_name == name and any(key[1] == m.label for key in by_column)
        ]
        if not metrics:
            continue
        rows = [
            [Cell(run.methods[name].title), *(_cell(run, by_column.get((name, m.label))) for m in metrics)]
            for name in methods_with_scores(run, by_column, metrics[0].label)
        ]
        rows += [
            [Cell(gap.title, [gap.reason]), *(_gap_cell(run, panel, gap, m) for m in metrics)]
            for gap in find_gaps(run, panel)
        ]
        head = ["method", *(m.heading for m in metrics)]
        yield NumberTable(head, rows, title=" · ".join(part for part in (panel.title, name) if part))


def _cell(run: RunData, score: Score | None) -> Cell:
    if score is None:
        return Cell("–")
    paper = published_value(run, score.panel.model, score.method, score.metric)
    published = [f"paper {format_number(paper)}"] if paper is not None else []
    if score.mean is None:
        return Cell("no value", [f"{score.failed} failed", *published])
    mark = ""
    if score.rank == 1:
        mark = " ★"
    elif score.level:
        mark = " ≈"
    counts = [f"n {score.n}"]
    if score.rank:
        counts.insert(0, f"rank {score.rank}")
    elif run.methods[score.method].is_reference:
        counts.insert(0, "reference")
    if score.failed:
        counts.append(f"{score.failed} failed")
    half_width = [] if score.half_width is None else [f"± {format_number(score.half_width, 2)}"]
    return Cell(
        f"{format_number(score.mean)}{mark}", [*half_width, ", ".join(counts), *published], best=score.rank == 1
    )


def _gap_cell(run: RunData, panel: Panel, gap: Gap, metric: MetricInfo) -> Cell:
    paper = published_value(run, panel.model, gap.method, metric.label)
    return Cell("–", [f"paper {format_number(paper)}"] if paper is not None else [])


def _agreement(run: RunData, scores: Sequence[Score]) -> PageSection:
    blocks: list[PageBlock] = [block for panel in run.panels if (block := _kendall(run, panel, scores))]
    blocks += [block for panel in run.panels if (block := galleries.map_similarity(run, panel))]
    return PageSection("Agreement between methods", blocks)


def _kendall(run: RunData, panel: Panel, scores: Sequence[Score]) -> NumberTable | None:
    from seewhy.metrics.composite.agreement import kendall

    metrics = [m for m in run.metrics.values() if m.higher_is_better is not None and not m.is_part]
    if len(metrics) < 2 or len(run.methods) < 3:
        return None
    ranks = {(s.metric, s.method): float(s.rank) for s in scores if s.panel == panel and s.rank}
    order = {m.label: [ranks.get((m.label, method), math.nan) for method in run.methods] for m in metrics}
    rows = [
        [Cell(a.title), *(galleries.correlation_cell(kendall(order[a.label], order[b.label])) for b in metrics)]
        for a in metrics
    ]
    return NumberTable(
        ["metric", *(m.title for m in metrics)],
        rows,
        title=f"Agreement of metrics on the ranks of methods · {panel.model}",
        note="Kendall's τ-b between the ranks: 1 the same order, 0 unrelated, −1 reversed.",
    )


def _cost(run: RunData) -> PageSection:
    rows = run.query(
        "WITH one AS (SELECT model, method, entry, min(seconds) AS seconds, min(passes) "
        "AS passes FROM scores WHERE method <> '' AND metric <> '' AND seconds IS NOT NULL GROUP BY ALL) "
        "SELECT model, method, avg(passes), median(seconds), sum(seconds), count(*) FROM one GROUP BY ALL "
        "ORDER BY model, 4, method"
    )
    cells = [
        [
            Cell(f"{run.methods[method].title}"),
            Cell(model),
            Cell("–" if passes is None else format_number(passes)),
            Cell(format_number(1000 * median, 3)),
            Cell(format_number(total, 3)),
            Cell(str(n)),
            Cell(run.methods[method].cost),
        ]
        for model, method, passes, median, total, n in rows
    ]
    head = ["method", "model", "forward passes per map", "median ms per map", "total seconds", "maps", "declared cost"]
    return PageSection("Cost", [NumberTable(head, cells)] if cells else [])


# ── figures ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _curves(run: RunData, scores: Sequence[Score]) -> PageSection:
    charts = [plots.curves(run, panel, [s for s in scores if s.panel == panel]) for panel in run.panels]
    return PageSection("Curves", [chart for chart in charts if chart])


def _distributions(run: RunData) -> PageSection:
    blocks = []
    for panel in run.panels:
        for info in run.metrics.values():
            block = None if info.is_part else plots.distributions(run, panel, info)
            blocks += [block] if block else []
    return PageSection(
        "Distributions",
        blocks,
        "Each map's score. Box: the middle half; bar: the median; line: 5th to 95th "
        "percentile; dots: some of the maps.",
    )


def gallery_metric(run: RunData) -> MetricInfo | None:
    """Return the metric by which galleries are sorted: the plan's first that has a direction.

    Metrics of where or why come before metrics of how simple a map is, and metrics that tell maps apart before those
    that say the same of most.
    """
    candidates = [info for info in run.metrics.values() if info.higher_is_better is not None and not info.is_part]
    rows = run.query(
        "SELECT metric, max(n) / sum(n) FROM (SELECT metric, value, count(*) AS n FROM scores WHERE "
        "method <> '' AND value IS NOT NULL GROUP BY ALL) GROUP BY metric"
    )
    tied: dict[str, float] = {metric: share for metric, share in rows}

    def preference(info: MetricInfo) -> tuple[bool, bool]:
        return info.property_name == "complexity", tied.get(info.label, 1.0) > MOST_TIED

    return min(candidates, key=preference, default=None)


def _extremes(run: RunData) -> PageSection:
    info = gallery_metric(run)
    if info is None:
        return PageSection("Best, median, worst", [])
    blocks = [block for panel in run.panels for block in galleries.extremes(run, panel, info)]
    intro = (
        f"By {info.title} {info.arrow}. Under each map its score, the class that it is for, and the image. White "
        "lines: all objects of the image."
    )
    return PageSection("Best, median, worst", blocks, intro)


def _disagreements(run: RunData) -> PageSection:
    info = gallery_metric(run)
    if info is None:
        return PageSection("Largest disagreements", [])
    blocks = [block for panel in run.panels for block in galleries.disagreements(run, panel, info)]
    intro = f"Images with the widest range of {info.title} between methods: the best map and the worst, for one class."
    return PageSection("Largest disagreements", blocks, intro)


# ── protocol ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _protocol(run: RunData) -> PageSection:
    manifest = run.manifest
    about = [
        (key, _plain(manifest[key]))
        for key in ("seed", "started", "finished", "data", "protocol", "versions", "hardware")
        if manifest.get(key) is not None
    ]
    about += [(f"model {m.get('name', '')}", _plain(m)) for m in manifest.get("models") or () if isinstance(m, dict)]
    metrics = [
        [
            Cell(m.title),
            Cell({True: "higher is better", False: "lower is better", None: "neither"}[m.higher_is_better]),
            Cell(_plain(m.options)),
            Cell(m.summary),
            Cell(m.citation),
        ]
        for m in run.metrics.values()
        if not m.is_part
    ]
    methods = [[Cell(m.title), Cell(_plain(m.options)), Cell(m.citation)] for m in run.methods.values()]
    return PageSection(
        "Protocol",
        [
            Definitions(about),
            NumberTable(["metric", "direction", "options", "meaning", "source"], metrics, True, title="Metrics"),
            NumberTable(["method", "options", "source"], methods, True, title="Methods"),
            CodeListing(run.plan_text, title="Plan"),
        ],
    )


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items() if v not in (None, {}, []))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
