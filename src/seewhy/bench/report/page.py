"""The page of a report, section by section."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from seewhy.bench import stats
from seewhy.bench.report import galleries, plots as drawings, summary as words
from seewhy.bench.report.elements import Block, Cell, Code, Facts, Part, Table, Words
from seewhy.bench.report.leaderboard import Score, asked, scores_of
from seewhy.bench.report.published import figure, source
from seewhy.bench.report.run_data import MetricInfo, Panel, Run
from seewhy.bench.report.summary import number

LEGEND = (
    "Mean ± half-width of the 95 % interval (bootstrap over images). ★ best. ≈ not significantly worse than the "
    "best: two-sided paired bootstrap over the images that both have, Holm-adjusted over the methods, 5 %. "
    f"No verdict below {stats.FEWEST} images. Baselines know nothing of the model and have no rank. "
    "↑ higher is better, ↓ lower is better."
)

TIED = 0.25  # share of maps with one and the same score, above which a metric tells maps apart badly


def parts(run: Run, scores: Sequence[Score]) -> list[Part]:
    """All sections that the run has something for."""
    made = [
        _summary(run, scores),
        _tables(run, scores),
        _curves(run, scores),
        _distributions(run),
        _pictures(run),
        _disagreements(run),
        _agreement(run, scores),
        _cost(run),
        _protocol(run),
    ]
    return [part for part in made if part.blocks]


def intro(run: Run) -> str:
    """One line about the run."""
    ((images, maps),) = run.ask(
        "SELECT count(DISTINCT sample), count(DISTINCT (model, method, entry)) FROM scores "
        "WHERE method <> '' AND metric <> ''"
    )
    data = " and ".join(sorted({f"{p.data} {p.split}".strip() for p in run.panels}))
    began = str(run.manifest.get("started") or "")[:10]
    state = "" if run.manifest.get("finished", True) else " The run is not finished: these are the rows so far."
    models = f"{len(run.panels)} model{'s' * (len(run.panels) > 1)}"
    bases = sum(about.baseline for about in run.methods.values())
    methods = len(run.methods) - bases
    return (
        f"{methods} method{'s' * (methods != 1)}{f' and {bases} baseline' if bases else ''}{'s' * (bases > 1)}, "
        f"{models}, {images} images of {data}, {maps} maps"
        f"{', begun ' + began if began else ''}.{state}"
    )


def _summary(run: Run, scores: Sequence[Score]) -> Part:
    blocks: list[Block] = [
        Words([*words.leaders(run, panel, scores), *words.models_own(run, panel)], title=_title(panel))
        for panel in run.panels
    ]
    return Part("In short", [*blocks, Words(words.failures(run), title="What failed")])


def _title(panel: Panel) -> str:
    return f"{panel.model} · {panel.data} {panel.split}".strip()


# --- numbers ---------------------------------------------------------------------------------------------------------


def _tables(run: Run, scores: Sequence[Score]) -> Part:
    blocks = [block for panel in run.panels for block in _panel_tables(run, panel, scores)]
    return Part("Tables", blocks, " ".join([LEGEND, *(f"Paper: {text}." for text in source(run))]))


def _panel_tables(run: Run, panel: Panel, scores: Sequence[Score]) -> Iterator[Block]:
    here = scores_of(panel, scores)
    families = dict.fromkeys(info.family for info in run.metrics.values())
    for family in families:
        metrics = [m for m in run.metrics.values() if m.family == family and any(key[1] == m.label for key in here)]
        if not metrics:
            continue
        rows = [
            [Cell(run.methods[name].title), *(_cell(run, here.get((name, m.label))) for m in metrics)]
            for name in asked(run, here, metrics[0].label)
        ]
        head = ["method", *(f"{m.title} {m.arrow}".strip() for m in metrics)]
        yield Table(head, rows, title=" · ".join(part for part in (_title(panel), family) if part))


def _cell(run: Run, score: Score | None) -> Cell:
    if score is None:
        return Cell("–")
    paper = figure(run, score)
    told = [f"paper {number(paper)}"] if paper is not None else []
    if score.mean is None:
        return Cell("no value", [f"{score.failed} failed", *told])
    mark = " ★" if score.rank == 1 else " ≈" if score.level else ""
    half = "" if score.half is None else f"± {number(score.half, 2)}"
    failed = f", {score.failed} failed" if score.failed else ""
    place = f"rank {score.rank}, " if score.rank else "baseline, " if run.methods[score.method].baseline else ""
    return Cell(
        f"{number(score.mean)}{mark}",
        [line for line in (half, f"{place}n {score.n}{failed}", *told) if line],
        best=score.rank == 1,
    )


def _agreement(run: Run, scores: Sequence[Score]) -> Part:
    blocks: list[Block] = [block for panel in run.panels if (block := _kendall(run, panel, scores))]
    blocks += [block for panel in run.panels if (block := galleries.likeness(run, panel))]
    return Part("Who agrees with whom", blocks)


def _kendall(run: Run, panel: Panel, scores: Sequence[Score]) -> Table | None:
    from seewhy.metrics.composite.agreement import kendall

    metrics = [m for m in run.metrics.values() if m.higher_is_better is not None and not m.part]
    if len(metrics) < 2 or len(run.methods) < 3:
        return None
    ranks = {(s.metric, s.method): float(s.rank) for s in scores if s.panel == panel and s.rank}
    order = {m.label: [ranks.get((m.label, method), math.nan) for method in run.methods] for m in metrics}
    rows = [
        [Cell(a.title), *(galleries.shaded(kendall(order[a.label], order[b.label])) for b in metrics)] for a in metrics
    ]
    return Table(
        ["metric", *(m.title for m in metrics)],
        rows,
        title=f"Do metrics rank methods alike? · {panel.model}",
        note="Kendall's τ-b between the ranks: 1 the same order, 0 unrelated, −1 reversed.",
    )


def _cost(run: Run) -> Part:
    rows = run.ask(
        "WITH one AS (SELECT model, method, entry, any_value(seconds) AS seconds, any_value(passes) "
        "AS passes FROM scores WHERE method <> '' AND metric <> '' AND seconds IS NOT NULL GROUP BY ALL) "
        "SELECT model, method, avg(passes), median(seconds), sum(seconds), count(*) FROM one GROUP BY ALL "
        "ORDER BY model, 4"
    )
    cells = [
        [
            Cell(f"{run.methods[method].title}"),
            Cell(model),
            Cell("–" if passes is None else number(passes)),
            Cell(number(1000 * median, 3)),
            Cell(number(total, 3)),
            Cell(str(n)),
            Cell(run.methods[method].cost),
        ]
        for model, method, passes, median, total, n in rows
    ]
    head = ["method", "model", "forward passes a map", "median ms a map", "seconds in all", "maps", "the method says"]
    return Part("Cost", [Table(head, cells)] if cells else [])


# --- pictures --------------------------------------------------------------------------------------------------------


def _curves(run: Run, scores: Sequence[Score]) -> Part:
    found = [drawings.curves(run, p, [s for s in scores if s.panel == p]) for p in run.panels]
    return Part("Curves", [block for block in found if block])


def _distributions(run: Run) -> Part:
    blocks = []
    for panel in run.panels:
        for info in run.metrics.values():
            block = None if info.part else drawings.distributions(run, panel, info)
            blocks += [block] if block else []
    return Part(
        "Image by image",
        blocks,
        "Each map's score. Box: the middle half; bar: the median; line: 5th to 95th "
        "percentile; dots: some of the maps.",
    )


def judge(run: Run) -> MetricInfo | None:
    """The metric that galleries go by: one with a direction, rather of where or why than of how simple a map is, and
    rather one that tells maps apart than one that says the same of most; of those the plan's first.
    """
    known = [m for m in run.metrics.values() if m.higher_is_better is not None and not m.part]
    tied = dict(
        run.ask(
            "SELECT metric, max(n) / sum(n) FROM (SELECT metric, value, count(*) AS n FROM scores WHERE "
            "method <> '' AND value IS NOT NULL GROUP BY ALL) GROUP BY metric"
        )
    )
    return min(known, key=lambda m: (m.family == "complexity", tied.get(m.label, 1) > TIED), default=None)


def _pictures(run: Run) -> Part:
    info = judge(run)
    blocks = [b for panel in run.panels for b in galleries.extremes(run, panel, info)] if info else []
    return Part(
        "Best, median, worst",
        blocks,
        f"By {info.title} {info.arrow}. Under each map its score, the class "
        "that it is for, and the picture. White lines: all objects of the picture."
        if info
        else "",
    )


def _disagreements(run: Run) -> Part:
    info = judge(run)
    blocks = [b for panel in run.panels for b in galleries.disagreements(run, panel, info)] if info else []
    return Part(
        "Where methods disagree most",
        blocks,
        f"Images with the widest range of {info.title} between methods: the best map and the worst, for one class."
        if info
        else "",
    )


# --- protocol --------------------------------------------------------------------------------------------------------


def _protocol(run: Run) -> Part:
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
        if not m.part
    ]
    methods = [[Cell(m.title), Cell(_plain(m.options)), Cell(m.citation)] for m in run.methods.values()]
    return Part(
        "The protocol",
        [
            Facts(about),
            Table(["metric", "direction", "options", "what it says", "source"], metrics, True, title="Metrics"),
            Table(["method", "options", "source"], methods, True, title="Methods"),
            Code(run.plan_text, title="The plan"),
        ],
    )


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items() if v not in (None, {}, []))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
