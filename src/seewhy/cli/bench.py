"""`seewhy bench`: how far can the pictures be trusted?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from seewhy.cli import common

app = typer.Typer(no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure maps where the right answer is known."""


@app.command()
def scenes(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Reference models; may repeat.")] = None,
    method: common.Methods = None,
    n: Annotated[int, typer.Option(help="How many scenes.")] = 300,
    thin: Annotated[bool, typer.Option(help="Show expensive methods a fifth of the scenes only.")] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a Markdown page.")] = None,
    as_json: common.AsJson = False,
) -> None:
    """Which methods put their maximum into the right one of several objects?"""
    from seewhy.bench import scenes as board
    from seewhy.models.load import load_model

    tables = {name: board.table(load_model(name), n, method, thin=thin, progress=common.progress)
              for name in model or ["scenes_vit", "scenes_cnn"]}
    if out:
        board.write(tables, n, out, thin)
    if as_json:
        common.print_json({name: [asdict(row) for row in rows] for name, rows in tables.items()})
        return
    for name, rows in tables.items():
        typer.echo(f"{name}\n{board.markdown(rows)}\n")
