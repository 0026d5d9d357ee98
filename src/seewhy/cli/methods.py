"""`seewhy methods`: what each map shows and what it needs."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.cli import common

if TYPE_CHECKING:
    from seewhy.methods.base import Method


def methods(
    pattern: Annotated[str, typer.Argument(help="A name, or a shell pattern such as '*cdam*'.")] = "*",
    as_json: common.AsJson = False,
) -> None:
    """List the methods, or describe one: what its map shows, the capabilities it needs, options, citation."""
    from seewhy.methods import METHODS

    names = METHODS.names(pattern) or [METHODS[pattern].card.name]  # an unknown name is an error
    cards = [_card(METHODS[name]) for name in names]
    common.print_cards(cards, ("method", "family", "signed", "needs", "what it shows"), _row, as_json)


def _row(card: dict[str, Any]) -> tuple[str, ...]:
    sign = "±" if card["signed"] else "+"
    return card["name"], card["family"], sign, ", ".join(card["needs"]), card["summary"]


def _card(cls: type[Method]) -> dict[str, Any]:
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
        "trained": card.trained,
        "volumes": card.volumes,
        "citation": card.citation,
        "about": inspect.getdoc(cls),
        "options": common.option_cards(cls),
    }
