"""`seewhy metrics`: what can be measured, which way is good, and what it needs."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from seewhy.cli import common


def metrics(
    pattern: Annotated[str, typer.Argument(help="A name, or a shell pattern such as '*pointing*'.")] = "*",
    as_json: common.AsJson = False,
) -> None:
    """List the metrics, or tell all about one: which way is good, what it needs, cost, options, source."""
    from seewhy.metrics import METRICS

    names = METRICS.names(pattern) or [METRICS[pattern].card.name]  # an unknown name is an error
    cards = [_row(METRICS[name]) for name in names]
    cards.sort(key=lambda card: card["property"])
    common.print_cards(
        cards, ("metric", "property", "better", "bounds", "passes", "needs", "what it measures"), _shown, as_json
    )


def _shown(card: dict) -> tuple[str, ...]:
    better = {True: "higher", False: "lower", None: "–"}[card["higher_is_better"]]
    low, high = ("" if bound is None else f"{bound:g}" for bound in card["bounds"])
    return (
        card["name"],
        card["property"],
        better,
        f"{low} … {high}".strip(),
        str(card["passes"]),
        ", ".join(card["needs"]),
        card["summary"],
    )


def _row(cls: type) -> dict:
    card = cls.card
    return {
        "name": card.name,
        "title": card.title,
        "property": card.property,
        "summary": card.summary,
        "needs": sorted(card.needs),
        "bounds": list(card.bounds),
        "higher_is_better": card.higher_is_better,
        "passes": cls().passes,
        "parts": card.parts,
        "aggregates": card.aggregates,
        "monotone_invariant": card.monotone_invariant,
        "scale_invariant": card.scale_invariant,
        "stochastic": card.stochastic,
        "citation": card.citation,
        "about": inspect.getdoc(cls),
        "options": common.option_cards(cls),
    }
