"""`seewhy metrics`: what can be measured, which way is good, and what it needs."""

from __future__ import annotations

from typing import Annotated

import typer

from seewhy.cli import common


def metrics(
    pattern: Annotated[str, typer.Argument(help="A shell pattern, e.g. '*pointing*'.")] = "*",
    as_json: common.AsJson = False,
) -> None:
    """List the metrics: property, direction, bounds, what must be known beside the map, cost, source."""
    from seewhy.metrics import METRICS

    rows = [_row(METRICS.get(name)) for name in METRICS.names(pattern)]
    if as_json:
        common.print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "property", "better", "bounds", "needs", "passes", "citation", box=None,
                  header_style="bold", pad_edge=False)
    for row in sorted(rows, key=lambda row: row["property"]):
        better = {True: "higher", False: "lower", None: "–"}[row["higher_is_better"]]
        low, high = ("" if bound is None else f"{bound:g}" for bound in row["bounds"])
        table.add_row(row["name"], row["property"], better, f"{low} … {high}", ", ".join(row["needs"]),
                      str(row["passes"]), row["citation"])
    Console().print(table)


def _row(cls: type) -> dict:
    from seewhy.registry import options_of

    card = cls.card
    return {
        "name": card.name, "title": card.title, "property": card.property, "summary": card.summary,
        "needs": sorted(card.needs), "bounds": list(card.bounds), "higher_is_better": card.higher_is_better,
        "passes": cls().passes, "parts": card.parts, "monotone_invariant": card.monotone_invariant,
        "scale_invariant": card.scale_invariant, "stochastic": card.stochastic, "citation": card.citation,
        "options": {name: {"default": field.default, "help": field.metadata["help"]}
                    for name, field in options_of(cls).items()},
    }
