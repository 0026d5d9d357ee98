"""`seewhy methods`: what can be asked, and what it costs."""

from __future__ import annotations

from typing import Annotated

import typer

from seewhy.cli import common


def methods(
    pattern: Annotated[str, typer.Argument(help="A shell pattern, e.g. '*cdam*'.")] = "*",
    as_json: common.AsJson = False,
) -> None:
    """List the methods: family, what the map shows, what the model must offer."""
    from seewhy.methods import METHODS

    rows = [_row(METHODS.get(name)) for name in METHODS.names(pattern)]
    if as_json:
        common.print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "family", "what it shows", "signed", "needs", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        sign = "±" if row["signed"] else "+"
        table.add_row(row["name"], row["family"], row["summary"], sign, ", ".join(row["needs"]))
    Console().print(table)


def _row(cls: type) -> dict:
    from seewhy.registry import options_of

    card = cls.card
    return {
        "name": card.name, "title": card.title, "family": card.family, "summary": card.summary,
        "needs": sorted(card.needs), "signed": card.signed, "class_specific": card.class_specific,
        "stochastic": card.stochastic, "citation": card.citation,
        "options": {name: {"default": field.default, "help": field.metadata["help"]}
                    for name, field in options_of(cls).items()},
    }
