"""`seewhy methods`: what can be asked, and what it costs."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from seewhy.cli import common


def methods(
    pattern: Annotated[str, typer.Argument(help="A name, or a shell pattern such as '*cdam*'.")] = "*",
    as_json: common.AsJson = False,
) -> None:
    """List the methods, or tell all about one: what the map shows, what the model must offer, options, source."""
    from seewhy.methods import METHODS

    names = METHODS.names(pattern) or [METHODS[pattern].card.name]  # an unknown name is an error
    cards = [_row(METHODS[name]) for name in names]
    common.print_cards(cards, ("method", "family", "signed", "needs", "what it shows"), _shown, as_json)


def _shown(card: dict) -> tuple[str, ...]:
    sign = "±" if card["signed"] else "+"
    return card["name"], card["family"], sign, ", ".join(card["needs"]), card["summary"]


def _row(cls: type) -> dict:
    card = cls.card
    return {
        "name": card.name,
        "title": card.title,
        "family": card.family,
        "summary": card.summary,
        "needs": sorted(card.needs),
        "signed": card.signed,
        "class_specific": card.class_specific,
        "stochastic": card.stochastic,
        "citation": card.citation,
        "about": inspect.getdoc(cls),
        "options": common.option_cards(cls),
    }
