"""The results of a run in sentences: who leads, by how much, what cannot be told apart, and what failed."""

from __future__ import annotations

from collections.abc import Sequence

from seewhy.bench import stats
from seewhy.bench.report.gaps import describe_skipped
from seewhy.bench.report.infos import MetricInfo, Panel
from seewhy.bench.report.leaderboard import Score
from seewhy.bench.report.run_data import RunData

SHOWN_REASONS = 5
"""Reasons of failures that are listed."""


def format_number(value: float, digits: int = 4) -> str:
    """Write a number with significant digits, and no exponent where a person would not: 170, not 1.7e+02."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def describe_leaders(run: RunData, panel: Panel, scores: Sequence[Score]) -> list[str]:
    """Return a sentence for each metric that has a better direction (parts of metrics are in the tables only)."""
    sentences = []
    for info in run.metrics.values():
        of_metric = [s for s in scores if s.panel == panel and s.metric == info.label and s.mean is not None]
        first = [s for s in of_metric if s.rank == 1]
        if not first or info.is_part or len(of_metric) < 2:
            continue
        who = _join_names([_name(run, score) for score in first])
        verb = "leads" if len(first) == 1 else "share the lead"
        sentences.append(
            f"{info.title} {info.arrow}: {who} {verb} with {_mean(first[0])}{_describe_others(run, of_metric)}."
            f"{_warn_of_reference_maps(run, info, of_metric, first[0])}"
        )
    return sentences


def _describe_others(run: RunData, scores: Sequence[Score]) -> str:
    others = sorted((s for s in scores if s.rank != 1), key=lambda s: s.rank or len(scores))
    if not others:
        return ""
    if all(s.level is None for s in others):
        return f"; too few images (fewer than {stats.FEWEST_IMAGES}) to say whether others are worse"
    second, margin = others[0], ""
    if second.rank and second.gap is not None and second.gap > 0:
        margin = f", {format_number(second.gap, 3)} ahead of {_name(run, second)}"
    level = [s for s in others if s.level]
    if not level:
        return f"{margin}; all others are significantly worse"
    return f"{margin}; not significantly worse: {', '.join(_name(run, s) for s in level)}"


def _warn_of_reference_maps(run: RunData, info: MetricInfo, scores: Sequence[Score], leader: Score) -> str:
    """Return a warning where a map that does not use the model does as well as the best method."""
    sign = 1 if info.higher_is_better else -1
    unbeaten = [
        s
        for s in scores
        if run.methods[s.method].is_reference
        and s.mean is not None
        and leader.mean is not None
        and sign * (s.mean - leader.mean) >= 0
    ]
    if not unbeaten:
        return ""
    names = _join_names([f"{_name(run, s)} ({_format_mean(s)})" for s in unbeaten])
    use, do = ("does not use", "does") if len(unbeaten) == 1 else ("do not use", "do")
    return f" But {names}, which {use} the model, {do} no worse: by this metric alone no method is shown to be good."


def _name(run: RunData, score: Score) -> str:
    about = run.methods[score.method]
    return f"the reference map {about.title}" if about.is_reference else about.title


def _join_names(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _format_mean(score: Score) -> str:
    return "–" if score.mean is None else format_number(score.mean)


def _mean(score: Score) -> str:
    """Return the mean with its interval."""
    if score.low is None or score.high is None:
        return _format_mean(score)
    return f"{_format_mean(score)} [{format_number(score.low)}, {format_number(score.high)}]"


def describe_failures(run: RunData) -> list[str]:
    """Return how many scores have no value and why, which methods were not run, and which images gave nothing."""
    ((missing, total),) = run.query(
        "SELECT count(*) FILTER (value IS NULL), count(*) FROM scores WHERE method <> '' AND metric <> ''"
    )
    sentences = [f"{missing} of {total} scores have no value." if missing else f"All {total} scores have a value."]
    reasons = run.query(
        "SELECT coalesce(error, 'no number and no reason'), count(*), count(DISTINCT method), min(method), min(sample) "
        "FROM scores WHERE method <> '' AND metric <> '' AND value IS NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    for reason, count, methods, method, sample in reasons[:SHOWN_REASONS]:
        who = run.methods[method].title if methods == 1 else f"{methods} methods"
        sentences.append(f"{count} × {reason} ({who}, e.g. {sample}).")
    if len(reasons) > SHOWN_REASONS:
        sentences.append(f"… and {len(reasons) - SHOWN_REASONS} further reasons.")
    broken = run.query("SELECT sample, min(error) FROM scores WHERE method = '' AND metric = '' GROUP BY 1 ORDER BY 1")
    if broken:
        sample, reason = broken[0]
        images = "1 image" if len(broken) == 1 else f"{len(broken)} images"
        sentences.append(f"{images} gave no result, e.g. {sample}: {reason}.")
    return sentences + describe_skipped(run.manifest) + [str(warning) for warning in run.manifest.get("warnings") or ()]


def describe_predictions(run: RunData, panel: Panel) -> list[str]:
    """Return what the model itself predicts."""
    rows = run.query(
        "SELECT metric, avg(value), count(value) FROM scores WHERE method = '' AND metric <> '' AND "
        "model = ? AND data = ? AND split = ? GROUP BY 1 ORDER BY 1",
        *panel.key,
    )
    means = [f"{name.removeprefix('model.')} {format_number(mean, 3)}" for name, mean, n in rows if n]
    return [f"The model's own predictions, means over the maps' targets: {'; '.join(means)}."] if means else []
