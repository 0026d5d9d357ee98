"""`seewhy data …`: look at data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at data sets.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `scenes` a sub-command while it is the only one."""


@app.command()
def scenes(
    split: Annotated[str, typer.Option(help="Which question, such as single, multi, concept, blank.")] = "multi",
    n: Annotated[int, typer.Option(min=1, max=400, help="How many scenes.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Which world.")] = 0,
    size: Annotated[int, typer.Option(help="Side of a picture in pixels, a multiple of 16.")] = 96,
    columns: Annotated[int, typer.Option(min=1, help="Pictures per row.")] = 4,
    scale: Annotated[int, typer.Option(min=1, max=8, help="Screen pixels per picture pixel.")] = 2,
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path("scenes.png"),
) -> None:
    """Write a contact sheet of made scenes, masks outlined, classes and textures named."""
    from ..data.scenes import Scenes
    from ..viz.contact import contact_sheet

    output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(Scenes(split, seed, n, size), columns, scale).save(output, format="PNG")
    typer.echo(f"{n} scenes of {split!r} in {output}")
