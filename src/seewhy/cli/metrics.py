"""`seewhy metrics`: what each metric measures, whether higher is better, and what it needs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.cli import common

if TYPE_CHECKING:
    from seewhy.metrics.base import Metric


def metrics(
    pattern: Annotated[str, typer.Argument(help="A name, or a shell pattern such as '*pointing*'.")] = "*",
    as_json: common.AsJson = False,
) -> None:
    """List the metrics, or describe one: whether higher is better, what it needs, cost, options, citation."""
    from seewhy.metrics import METRICS

    names = METRICS.names(pattern) or [METRICS[pattern].card.name]  # an unknown name is an error
    cards = [_card(METRICS[name]) for name in names]
    cards.sort(key=lambda card: card["property"])
    common.print_cards(
        cards, ("metric", "property", "better", "bounds", "passes", "needs", "what it measures"), _row, as_json
    )


def _row(card: dict[str, Any]) -> tuple[str, ...]:
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


def _card(cls: type[Metric]) -> dict[str, Any]:
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
