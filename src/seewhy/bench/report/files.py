"""The tables as CSV (long and wide) and as LaTeX for a paper."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from seewhy.bench.report.board import Score
from seewhy.bench.report.published import figure
from seewhy.bench.report.read import Panel, Run

LONG = ("model", "data", "split", "method", "metric", "better", "n", "images", "failed", "mean", "low", "high", "rank",
        "leads", "gap_to_leader", "p_holm", "not_significantly_worse", "published")
ESCAPES = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
           "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$",
           "↓": r"$\downarrow$", "Δ": r"$\Delta$", "−": r"$-$", "<": r"\textless{}", ">": r"\textgreater{}"}


def long_csv(run: Run, scores: Sequence[Score]) -> str:
    """A line for each model, method and metric."""
    better = {True: "higher", False: "lower", None: ""}
    return _csv([LONG, *([*s.panel.key, s.method, s.metric, better[run.metrics[s.metric].higher_is_better], s.n,
                          s.images, s.failed, s.mean, s.low, s.high, s.rank, s.leads, s.gap, s.p, s.level,
                          figure(run, s)] for s in scores)])


def wide_csv(run: Run, scores: Sequence[Score]) -> str:
    """A line for each model and method, the means of the metrics as columns."""
    means = {(s.panel, s.method, s.metric): s.mean for s in scores}
    rows = [[*panel.key, method, *(means.get((panel, method, metric)) for metric in run.metrics)]
            for panel in run.panels for method in run.methods]
    return _csv([["model", "data", "split", "method", *run.metrics], *rows])


def _csv(rows: Sequence[Sequence]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def latex(run: Run, scores: Sequence[Score]) -> str:
    """A booktabs table for each model: means with half-widths, best bold, not significantly worse underlined."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_table(run, panel, scores) for panel in run.panels)


def _table(run: Run, panel: Panel, scores: Sequence[Score]) -> str:
    own = {(s.method, s.metric): s for s in scores if s.panel == panel}
    metrics = [m for m in run.metrics.values() if any(metric == m.label for _, metric in own)]
    head = " & ".join(["Method", *(escaped(f"{m.title} {m.arrow}".strip()) for m in metrics)])
    lines = [" & ".join([escaped(info.title), *(_cell(own.get((method, m.label))) for m in metrics)]) + r" \\"
             for method, info in run.methods.items()]
    caption = escaped(f"{panel.model} on {panel.data} {panel.split}".strip())
    return "\n".join([r"\begin{table}", r"\centering", rf"\caption{{{caption}. Mean and half-width of the 95\,\% "
                      r"bootstrap interval over images; bold: best; underlined: not significantly worse.}",
                      rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}", r"\toprule", head + r" \\", r"\midrule", *lines,
                      r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _cell(score: Score | None) -> str:
    if score is None or score.mean is None:
        return "--"
    mean = f"{score.mean:.4g}"
    text = rf"\mathbf{{{mean}}}" if score.rank == 1 else rf"\underline{{{mean}}}" if score.level else mean
    half = "" if score.low is None or score.high is None else rf" \pm {(score.high - score.low) / 2:.2g}"
    return f"${text}{half}$"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return re.sub("|".join(map(re.escape, ESCAPES)), lambda found: ESCAPES[found[0]], text)
