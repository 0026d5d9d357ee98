"""The tables as CSV (long and wide), as LaTeX for a paper, and as Markdown for a README or an issue."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

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
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet computes."""


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
    csv.writer(buffer, lineterminator="\n").writerows([[_harmless(cell) for cell in row] for row in rows])
    return buffer.getvalue()


def _harmless(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula: text with the sign of one gets an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def latex(run: RunData, scores: Sequence[Score]) -> str:
    """Return a booktabs table for each model: means with half-widths, best bold, not significantly worse underlined."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(
        _latex_table(run, panel, scores) for panel in run.panels
    )


def _latex_table(run: RunData, panel: Panel, scores: Sequence[Score]) -> str:
    by_column = scores_of(panel, scores)
    metrics = _shown(run, by_column)
    head = " & ".join(["Method", *(escape_latex(m.heading) for m in metrics)])
    lines = [
        " & ".join(
            [escape_latex(run.methods[name].title), *(_latex_cell(by_column.get((name, m.label))) for m in metrics)]
        )
        + r" \\"
        for name in methods_with_scores(run, by_column, metrics[0].label if metrics else None)
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
            rf"\caption{{{caption}. {escape_latex(_legend(run, by_column.values(), 'underlined'))}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
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
    return "\n".join(_markdown_table(run, panel, scores) for panel in run.panels)


def _shown(run: RunData, by_column: Mapping[tuple[str, str], Score]) -> list[MetricInfo]:
    """Return the metrics of a model's table, without their parts."""
    return [m for m in run.metrics.values() if not m.is_part and any(metric == m.label for _, metric in by_column)]


def _legend(run: RunData, scores: Iterable[Score], level: str) -> str:
    """Say what the signs of a table mean, those that stand in it, and whether the run has ended."""
    listed = list(scores)
    intervals = any(score.half_width is not None for score in listed)
    parts = ["Mean ± half-width of the 95 % bootstrap interval over images" if intervals else "Means", "bold: best"]
    if any(score.level and score.rank != 1 for score in listed):
        parts.append(f"{level}: not significantly worse")
    if run.manifest.get("finished", True):
        return "; ".join(parts) + "."
    return "; ".join(parts) + ". The run has not ended: this is what it has so far."


def _markdown_table(run: RunData, panel: Panel, scores: Sequence[Score]) -> str:
    by_column = scores_of(panel, scores)
    shown = _shown(run, by_column)
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
            f"### {_escape_markdown(title)}",
            "",
            *("| " + " | ".join(_escape_markdown(cell) for cell in line) + " |" for line in lines),
            "",
            _legend(run, by_column.values(), "≈"),
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
