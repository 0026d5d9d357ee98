"""What a run found, in sentences: who leads, by how much, what cannot be told apart, and what failed."""

from __future__ import annotations

from collections.abc import Sequence

from seewhy.bench import stats
from seewhy.bench.report.leaderboard import Score
from seewhy.bench.report.run_data import MetricInfo, Panel, Run

SHOWN = 5  # reasons of failures


def number(value: float, digits: int = 4) -> str:
    """So many significant digits, and no exponent where a person would not write one: 170, not 1.7e+02."""
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def leaders(run: Run, panel: Panel, scores: Sequence[Score]) -> list[str]:
    """One sentence for each metric that has a better direction (parts of metrics are in the tables only)."""
    lines = []
    for info in run.metrics.values():
        own = [s for s in scores if s.panel == panel and s.metric == info.label and s.mean is not None]
        first = [s for s in own if s.rank == 1]
        if not first or info.part or len(own) < 2:
            continue
        who = _listed([_name(run, s) for s in first])
        lines.append(
            f"{info.title} {info.arrow}: {who} {'leads' if len(first) == 1 else 'share the lead'} with "
            f"{_mean(first[0])}{_rest(run, own)}.{_unbeaten(run, info, own, first[0])}"
        )
    return lines


def _rest(run: Run, own: list[Score]) -> str:
    others = sorted((s for s in own if s.rank != 1), key=lambda s: s.rank or len(own))
    level = [s for s in others if s.level]
    if not others:
        return ""
    if all(s.level is None for s in others):
        return f"; too few images (fewer than {stats.FEWEST}) to say whether others are worse"
    second = others[0]
    margin = f", {number(second.gap, 3)} ahead of {_name(run, second)}" if second.rank and (second.gap or 0) > 0 else ""
    if not level:
        return f"{margin}; all others are significantly worse"
    return f"{margin}; not significantly worse: {', '.join(_name(run, s) for s in level)}"


def _unbeaten(run: Run, info: MetricInfo, own: list[Score], leader: Score) -> str:
    """A warning where a map that knows nothing of the model does as well as the best method."""
    sign = 1 if info.higher_is_better else -1
    ahead = [s for s in own if run.methods[s.method].baseline and sign * (s.mean - leader.mean) >= 0]
    if not ahead:
        return ""
    names = _listed([f"{_name(run, s)} ({number(s.mean)})" for s in ahead])
    return (
        f" But {names}, which know{'s' * (len(ahead) == 1)} nothing of the model, "
        f"do{'es' * (len(ahead) == 1)} no worse: by this metric alone no method is shown to be good."
    )


def _name(run: Run, score: Score) -> str:
    about = run.methods[score.method]
    return f"the baseline {about.title}" if about.baseline else about.title


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _mean(score: Score) -> str:
    if score.low is None or score.high is None:
        return number(score.mean)
    return f"{number(score.mean)} [{number(score.low)}, {number(score.high)}]"


def failures(run: Run) -> list[str]:
    """How many scores have no value and why, commonest first; methods that were not run; pictures that gave nothing."""
    ((missing, all_rows),) = run.ask(
        "SELECT count(*) FILTER (value IS NULL), count(*) FROM scores WHERE method <> '' AND metric <> ''"
    )
    lines = [f"{missing} of {all_rows} scores have no value." if missing else f"All {all_rows} scores have a value."]
    reasons = run.ask(
        "SELECT coalesce(error, 'no number and no reason'), count(*), count(DISTINCT method), min(method), min(sample) "
        "FROM scores WHERE method <> '' AND metric <> '' AND value IS NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    for why, n, methods, method, sample in reasons[:SHOWN]:
        who = run.methods[method].title if methods == 1 else f"{methods} methods"
        lines.append(f"{n} × {why} ({who}, e.g. {sample}).")
    if len(reasons) > SHOWN:
        lines.append(f"… and {len(reasons) - SHOWN} further reasons.")
    broken = run.ask("SELECT sample, min(error) FROM scores WHERE method = '' AND metric = '' GROUP BY 1 ORDER BY 1")
    lines += [f"{len(broken)} pictures gave nothing, e.g. {broken[0][0]}: {broken[0][1]}."] if broken else []
    for entry in run.manifest.get("skipped") or ():
        why = entry["reason"].partition("; ")[0]  # what to do next is for who writes the plan
        lines.append(f"{entry['method']} was not run on {entry['model']}: {why}.")
    return lines + [str(warning) for warning in run.manifest.get("warnings") or ()]


def models_own(run: Run, panel: Panel) -> list[str]:
    """What the model itself answers."""
    found = run.ask(
        "SELECT metric, avg(value), count(value) FROM scores WHERE method = '' AND metric <> '' AND "
        "model = ? AND data = ? AND split = ? GROUP BY 1 ORDER BY 1",
        *panel.key,
    )
    words = "; ".join(f"{name.removeprefix('model.')} {number(mean, 3)}" for name, mean, n in found if n)
    return [f"The model's own answers, means over the maps' targets: {words}."] if words else []
