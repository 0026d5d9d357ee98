"""`seewhy models`: the models that can be loaded by name."""

from __future__ import annotations

from typing import Annotated

import typer

from seewhy.cli import common


def models(
    pattern: Annotated[str, typer.Argument(help="A shell pattern, e.g. 'timm/*dino*'.")] = "*",
    as_json: common.AsJson = False,
) -> None:
    """List the models that can be loaded by name, from the libraries that are installed."""
    from seewhy.errors import UnknownNameError
    from seewhy.models.load import list_models

    names = list_models(pattern)
    if not names:
        raise UnknownNameError("model", pattern, list_models("*"))
    if as_json:
        common.print_json(names)
        return
    for name in names:
        typer.echo(name)
