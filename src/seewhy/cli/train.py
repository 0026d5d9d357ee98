"""`seewhy train …`: train the reference models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train the reference models.", no_args_is_help=True)


@app.command()
def scenes(
    model: Annotated[str, typer.Option(help="Which recipe: scenes_cnn, scenes_vit, scenes_vit_registers …")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and weights.")],
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Continue from the checkpoint in --out.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps …")] = "cpu",
    precision: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw the training set.")] = 2,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    pool_dir: Annotated[Path | None, typer.Option(help="Where drawn scenes are kept (default: in --out).")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe: --set steps=500.")] = None,
) -> None:
    """Train a reference model of the scenes; a killed run continues with --resume and ends in the same bits."""
    from seewhy.training.recipes import parse_changes
    from seewhy.training.scenes import train

    train(
        model,
        out,
        resume=resume,
        device=device,
        precision=precision,
        threads=threads,
        workers=workers,
        every=every,
        pool_dir=pool_dir,
        **parse_changes(changes or []),
    )
    typer.echo(f"done; the weights are in {out / 'model.safetensors'}")


@app.command()
def ship(
    model: Annotated[str, typer.Option(help="The recipe that was trained.")],
    run: Annotated[Path, typer.Option(help="Its --out folder.")],
    weights: Annotated[Path, typer.Option(help="Folder that gets the weights, figures and card.")],
    n: Annotated[int, typer.Option(min=1, help="Scenes per split to measure on.")] = 1000,
) -> None:
    """Measure a finished run; write its half-precision weights, figures and card into a folder."""
    from seewhy.training import export

    for split, figures in export.ship(model, run, weights, n)["figures"].items():
        typer.echo(f"{split:10s} " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))
