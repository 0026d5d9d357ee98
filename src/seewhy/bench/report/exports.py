"""The tables as CSV (long and wide), as LaTeX for a paper, and as Markdown for a README or an issue."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from seewhy.bench.report.leaderboard import Score, asked, scores_of
from seewhy.bench.report.published import figure
from seewhy.bench.report.run_data import MetricInfo, Panel, Run
from seewhy.bench.report.summary import number

LONG = (
    "model",
    "data",
    "split",
    "method",
    "metric",
    "better",
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


def long_csv(run: Run, scores: Sequence[Score]) -> str:
    """A line for each model, method and metric."""
    better = {True: "higher", False: "lower", None: ""}
    return _csv(
        [
            LONG,
            *(
                [
                    *s.panel.key,
                    s.method,
                    s.metric,
                    better[run.metrics[s.metric].higher_is_better],
                    s.n,
                    s.images,
                    s.failed,
                    s.mean,
                    s.low,
                    s.high,
                    s.rank,
                    s.leads,
                    s.gap,
                    s.p,
                    s.level,
                    figure(run, s),
                ]
                for s in scores
            ),
        ]
    )


def wide_csv(run: Run, scores: Sequence[Score]) -> str:
    """A line for each model and method, the means of the metrics as columns."""
    means = {(s.panel, s.method, s.metric): s.mean for s in scores}
    rows = [
        [*panel.key, method, *(means.get((panel, method, metric)) for metric in run.metrics)]
        for panel in run.panels
        for method in run.methods
    ]
    return _csv([["model", "data", "split", "method", *run.metrics], *rows])


def _csv(rows: Sequence[Sequence]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def latex(run: Run, scores: Sequence[Score]) -> str:
    """A booktabs table for each model: means with half-widths, best bold, not significantly worse underlined."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_table(run, panel, scores) for panel in run.panels)


def _table(run: Run, panel: Panel, scores: Sequence[Score]) -> str:
    here = scores_of(panel, scores)
    metrics = [m for m in run.metrics.values() if any(metric == m.label for _, metric in here)]
    head = " & ".join(["Method", *(escaped(f"{m.title} {m.arrow}".strip()) for m in metrics)])
    lines = [
        " & ".join([escaped(run.methods[name].title), *(_cell(here.get((name, m.label))) for m in metrics)]) + r" \\"
        for name in asked(run, here)
    ]
    caption = escaped(f"{panel.model} on {panel.data} {panel.split}".strip())
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


def _cell(score: Score | None) -> str:
    if score is None or score.mean is None:
        return "--"
    mean = number(score.mean)
    text = rf"\mathbf{{{mean}}}" if score.rank == 1 else rf"\underline{{{mean}}}" if score.level else mean
    half = "" if score.half is None else rf" \pm {number(score.half, 2)}"
    return f"${text}{half}$"


def markdown(run: Run, scores: Sequence[Score]) -> str:
    """A table for each model, best by the first metric first; metrics whole, without their parts."""
    metrics = [m for m in run.metrics.values() if not m.part]
    return "\n".join(_pipes(run, panel, metrics, scores) for panel in run.panels)


def _pipes(run: Run, panel: Panel, metrics: Sequence[MetricInfo], scores: Sequence[Score]) -> str:
    here = scores_of(panel, scores)
    shown = [m for m in metrics if any(metric == m.label for _, metric in here)]
    methods = asked(run, here, shown[0].label if shown else None)
    rows = [[run.methods[name].title, *(_marked(here.get((name, m.label))) for m in shown)] for name in methods]
    head = ["", *(f"{m.title} {m.arrow}".strip() for m in shown)]
    lines = [head, ["---", *["--:"] * len(shown)], *rows]
    title = f"{panel.model} on {panel.data} {panel.split}".strip()
    return "\n".join(
        [
            f"### {title}",
            "",
            *("| " + " | ".join(_piped(cell) for cell in line) + " |" for line in lines),
            "",
            "Mean ± half-width of the 95 % bootstrap interval over images; bold: best; ≈: not significantly worse.",
            "",
        ]
    )


def _marked(score: Score | None) -> str:
    if score is None or score.mean is None:
        return "–"
    mean = number(score.mean)
    half = "" if score.half is None else f" ± {number(score.half, 2)}"
    return f"**{mean}**{half}" if score.rank == 1 else f"{mean}{half}{' ≈' if score.level else ''}"


def _piped(text: str) -> str:
    """Text that ends no cell and starts no tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_")


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return re.sub("|".join(map(re.escape, ESCAPES)), lambda found: ESCAPES[found[0]], text)
