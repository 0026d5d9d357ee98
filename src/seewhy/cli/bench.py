"""`seewhy bench`: how far can the pictures be trusted?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seewhy.cli import common

if TYPE_CHECKING:
    from seewhy.bench.store import Store

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


Folder = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the run.")],
    as_json: common.AsJson = False,
) -> None:
    """Explain and score: every method of a plan, by every metric, on its pictures."""
    from seewhy.bench import run as engine
    from seewhy.cli.watch import Bars

    with Bars() as bars:
        store = engine.run(plan, out, bars)
    _summary(store, as_json)


@app.command()
def resume(
    folder: Folder,
    plan: Annotated[Path | None, typer.Option(help="Refuse if the run was started with another plan.")] = None,
    as_json: common.AsJson = False,
) -> None:
    """Go on with a run that was interrupted; finished work stays as it is."""
    from seewhy.bench import run as engine
    from seewhy.cli.watch import Bars

    with Bars() as bars:
        store = engine.resume(folder, plan, bars)
    _summary(store, as_json)


def _summary(store: Store, as_json: bool) -> None:
    counts = store.table("SELECT model, method, count(DISTINCT entry) AS maps, count(value) AS values, "
                         "count(error) AS errors FROM rows WHERE method <> '' GROUP BY ALL ORDER BY ALL").to_pylist()
    if as_json:
        common.print_json({"run": str(store.folder), "manifest": store.manifest, "methods": counts})
        return
    for row in counts:
        typer.echo(f"{row['model']}  {row['method']}: {row['maps']} maps, {row['values']} values"
                   + (f", {row['errors']} without" if row["errors"] else ""))
    typer.echo(f"{store.folder} (next: seewhy bench report {store.folder})")
