"""What a run found, in sentences: who leads, by how much, what cannot be told apart, and what failed."""

from __future__ import annotations

from collections.abc import Sequence

from seewhy.bench import stats
from seewhy.bench.report.board import Score
from seewhy.bench.report.read import Panel, Run

SHOWN = 5  # reasons of failures


def leaders(run: Run, panel: Panel, scores: Sequence[Score]) -> list[str]:
    """One sentence for each metric that has a better direction (parts of metrics are in the tables only)."""
    lines = []
    for info in run.metrics.values():
        own = [s for s in scores if s.panel == panel and s.metric == info.label and s.mean is not None]
        leader = next((s for s in own if s.leads), None)
        if leader is None or info.part or len(own) < 2:
            continue
        lines.append(f"{info.title} {info.arrow}: {_name(run, leader)} leads with {_mean(leader)}{_rest(run, own)}.")
    return lines


def _rest(run: Run, own: list[Score]) -> str:
    others = sorted((s for s in own if not s.leads), key=lambda s: s.rank or 0)
    level = [s for s in others if s.level]
    unknown = [s for s in others if s.level is None]
    if len(unknown) == len(others):
        return f"; too few images (fewer than {stats.FEWEST}) to say whether others are worse"
    second = others[0]
    margin = f", {abs(second.gap):.3g} ahead of {_name(run, second)}" if second.gap is not None else ""
    if not level:
        return f"{margin}; all others are significantly worse"
    names = ", ".join(_name(run, s) for s in level)
    return f"{margin}; not significantly worse: {names}"


def _name(run: Run, score: Score) -> str:
    return run.methods[score.method].title


def _mean(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{score.mean:.4g}"
    return f"{score.mean:.4g} [{score.low:.4g}, {score.high:.4g}]"


def failures(run: Run) -> list[str]:
    """How many scores have no value and why, commonest first; methods that were not run; pictures that gave nothing."""
    (missing, all_rows), = run.ask("SELECT count(*) FILTER (value IS NULL), count(*) FROM scores WHERE method <> '' "
                                   "AND metric <> ''")
    lines = [f"{missing} of {all_rows} scores have no value." if missing else f"All {all_rows} scores have a value."]
    reasons = run.ask(
        "SELECT coalesce(error, 'no number and no reason'), count(*), count(DISTINCT method), min(method), min(sample) "
        "FROM scores WHERE method <> '' AND metric <> '' AND value IS NULL GROUP BY 1 ORDER BY 2 DESC, 1")
    for why, n, methods, method, sample in reasons[:SHOWN]:
        who = run.methods[method].title if methods == 1 else f"{methods} methods"
        lines.append(f"{n} × {why} ({who}, e.g. {sample}).")
    if len(reasons) > SHOWN:
        lines.append(f"… and {len(reasons) - SHOWN} further reasons.")
    broken = run.ask("SELECT sample, min(error) FROM scores WHERE method = '' AND metric = '' GROUP BY 1 ORDER BY 1")
    lines += [f"{len(broken)} pictures gave nothing, e.g. {broken[0][0]}: {broken[0][1]}."] if broken else []
    lines += [f"{entry['method']} was not run on {entry['model']}: {entry['reason']}."
              for entry in run.manifest.get("skipped") or ()]
    return lines + [str(warning) for warning in run.manifest.get("warnings") or ()]


def models_own(run: Run, panel: Panel) -> list[str]:
    """What the model itself answers."""
    found = run.ask("SELECT metric, avg(value), count(value) FROM scores WHERE method = '' AND metric <> '' AND "
                    "model = ? AND data = ? AND split = ? GROUP BY 1 ORDER BY 1", *panel.key)
    words = "; ".join(f"{name.removeprefix('model.')} {mean:.3g}" for name, mean, n in found if n)
    return [f"The model's own answers, means over the maps' targets: {words}."] if words else []
