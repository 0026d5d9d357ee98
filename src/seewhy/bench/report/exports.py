"""The tables as CSV (long and wide), as LaTeX for a paper, and as Markdown for a README or an issue."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from seewhy.bench.report.gaps import find_gaps
from seewhy.bench.report.infos import MetricInfo, Panel
from seewhy.bench.report.leaderboard import Score, methods_with_scores, scores_of
from seewhy.bench.report.published import published_value
from seewhy.bench.report.run_data import RunData
from seewhy.bench.report.summary import format_number

LONG_COLUMNS = (
    "model",
    "data",
    "split",
    "method",
    "metric",
    "better",
    "unit",
    "n",
    "images",
    "failed",
    "mean",
    "low",
    "high",
    "rank",
    "leads",
    "gap_to_leader",
    "p_holm",
    "not_significantly_worse",
    "published",
)
ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "Δ": r"$\Delta$",
    "−": r"$-$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def long_csv(run: RunData, scores: Sequence[Score]) -> str:
    """Return a line for each model, method and metric."""
    better = {True: "higher", False: "lower", None: ""}
    rows = []
    for score in scores:
        direction = better[run.metrics[score.metric].higher_is_better]
        rows.append(
            [
                *score.panel.key,
                score.method,
                score.metric,
                direction,
                run.metrics[score.metric].unit,
                score.n,
                score.images,
                score.failed,
                score.mean,
                score.low,
                score.high,
                score.rank,
                score.leads,
                score.gap,
                score.p,
                score.level,
                published_value(run, score.panel.model, score.method, score.metric),
            ]
        )
    return _csv([LONG_COLUMNS, *rows])


def wide_csv(run: RunData, scores: Sequence[Score]) -> str:
    """Return a line for each model and method, the means of the metrics as columns."""
    means = {(s.panel, s.method, s.metric): s.mean for s in scores}
    rows = [
        [*panel.key, method, *(means.get((panel, method, metric)) for metric in run.metrics)]
        for panel in run.panels
        for method in run.methods
    ]
    return _csv([["model", "data", "split", "method", *run.metrics], *rows])


def _csv(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def latex(run: RunData, scores: Sequence[Score]) -> str:
    """Return a booktabs table for each model: means with half-widths, best bold, not significantly worse underlined."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex_table(run, panel, scores) for panel in run.panels)


def _latex_table(run: RunData, panel: Panel, scores: Sequence[Score]) -> str:
    by_column = scores_of(panel, scores)
    metrics = [m for m in run.metrics.values() if any(metric == m.label for _, metric in by_column)]
    head = " & ".join(["Method", *(escape_latex(m.heading) for m in metrics)])
    lines = [
        " & ".join(
            [escape_latex(run.methods[name].title), *(_latex_cell(by_column.get((name, m.label))) for m in metrics)]
        )
        + r" \\"
        for name in methods_with_scores(run, by_column)
    ]
    for gap in find_gaps(run, panel):
        lines.append(
            rf"{escape_latex(gap.title)} & \multicolumn{{{len(metrics)}}}{{l}}{{{escape_latex(gap.reason)}}} \\"
        )
    caption = escape_latex(f"{panel.model} on {panel.data} {panel.split}".strip())
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}. Mean and half-width of the 95\,\% "
            r"bootstrap interval over images; bold: best; underlined: not significantly worse.}",
            rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(score: Score | None) -> str:
    if score is None or score.mean is None:
        return "--"
    mean = format_number(score.mean)
    text = mean
    if score.rank == 1:
        text = rf"\mathbf{{{mean}}}"
    elif score.level:
        text = rf"\underline{{{mean}}}"
    half = "" if score.half_width is None else rf" \pm {format_number(score.half_width, 2)}"
    return f"${text}{half}$"


def markdown(run: RunData, scores: Sequence[Score]) -> str:
    """Return a table for each model, best by the first metric first; metrics without their parts."""
    metrics = [m for m in run.metrics.values() if not m.is_part]
    return "\n".join(_markdown_table(run, panel, metrics, scores) for panel in run.panels)


def _markdown_table(run: RunData, panel: Panel, metrics: Sequence[MetricInfo], scores: Sequence[Score]) -> str:
    by_column = scores_of(panel, scores)
    shown = [m for m in metrics if any(metric == m.label for _, metric in by_column)]
    methods = methods_with_scores(run, by_column, shown[0].label if shown else None)
    rows = [
        [run.methods[name].title, *(_markdown_cell(by_column.get((name, m.label))) for m in shown)] for name in methods
    ]
    head = ["", *(m.heading for m in shown)]
    gaps = find_gaps(run, panel)
    rows += [[gap.title, *["–"] * len(shown)] for gap in gaps]
    lines = [head, ["---", *["--:"] * len(shown)], *rows]
    title = f"{panel.model} on {panel.data} {panel.split}".strip()
    return "\n".join(
        [
            f"### {title}",
            "",
            *("| " + " | ".join(_escape_markdown(cell) for cell in line) + " |" for line in lines),
            "",
            "Mean ± half-width of the 95 % bootstrap interval over images; bold: best; ≈: not significantly worse.",
            *(_escape_markdown(f"{gap.title}: {gap.reason}.") for gap in gaps),
            "",
        ]
    )


def _markdown_cell(score: Score | None) -> str:
    if score is None or score.mean is None:
        return "–"
    mean = format_number(score.mean)
    half = "" if score.half_width is None else f" ± {format_number(score.half_width, 2)}"
    return f"**{mean}**{half}" if score.rank == 1 else f"{mean}{half}{' ≈' if score.level else ''}"


def _escape_markdown(text: str) -> str:
    """Return text that ends no cell and starts no tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_")


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return re.sub("|".join(map(re.escape, ESCAPES)), lambda match: ESCAPES[match[0]], text)
