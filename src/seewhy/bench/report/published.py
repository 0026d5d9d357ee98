"""A paper's figures beside ours: the plan's `[published]`."""

from __future__ import annotations

from typing import Any

from seewhy.bench.report.leaderboard import Score
from seewhy.bench.report.run_data import Run

ABOUT = ("source", "note", "percent")


def figure(run: Run, score: Score) -> float | None:
    """The paper's value in our unit, or None.

    `[published.MODEL.METHOD] METRIC = value`, or `[published.METHOD]` for every model; `percent = true`: the paper
    prints a hundred times our unit. METRIC may be written `fidelity.mif` in quotes.
    """
    told = run.plan.get("published") or {}
    for place in (told.get(score.panel.model), told):
        value = _inside(_inside(place, score.method), score.metric)
        if isinstance(value, int | float):
            return value / 100 if told.get("percent") else float(value)
    return None


def source(run: Run) -> list[str]:
    """Where the figures are from, in sentences."""
    told = run.plan.get("published") or {}
    return [str(told[key]) for key in ("source", "note") if told.get(key)]


def _inside(place: Any, key: str) -> Any:
    return place.get(key) if isinstance(place, dict) else None
