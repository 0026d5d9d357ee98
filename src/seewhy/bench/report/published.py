"""A paper's values beside ours: the plan's `[published]`."""

from __future__ import annotations

from typing import Any

from seewhy.bench.report.run_data import RunData

RESERVED = ("source", "note", "percent")
"""Keys of `[published]` that are no model or method."""


def published_value(run: RunData, model: str, method: str, metric: str) -> float | None:
    """Return the paper's value in our unit, if the plan has it.

    `[published.MODEL.METHOD] METRIC = value`, or `[published.METHOD]` for every model; `percent = true`: the paper
    prints a hundred times our unit. METRIC may be written `fidelity.mif` in quotes.
    """
    published = run.plan.get("published") or {}
    for table in (published.get(model), published):
        value = _lookup(_lookup(table, method), metric)
        if isinstance(value, int | float):
            return value / 100 if published.get("percent") else float(value)
    return None


def published_sources(run: RunData) -> list[str]:
    """Return where the paper's values are from, in sentences."""
    published = run.plan.get("published") or {}
    return [str(published[key]) for key in ("source", "note") if published.get(key)]


def _lookup(table: Any, key: str) -> Any:
    return table.get(key) if isinstance(table, dict) else None
