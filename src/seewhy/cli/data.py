"""`seewhy data …`: look at datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seewhy.cli import common

if TYPE_CHECKING:
    from seewhy.data import Dataset

app = typer.Typer(help="List, draw and check datasets.", no_args_is_help=True)


Name = Annotated[str, typer.Argument(help="A name of `seewhy data list`.")]
Root = Annotated[Path | None, typer.Option(help="The folder that holds the dataset.")]
Split = Annotated[str | None, typer.Option(help="Which split; default: the first.")]


@app.command(name="list")
def list_(as_json: common.AsJson = False) -> None:
    """List the datasets: annotations, where to get them, which files are expected."""
    from seewhy.data import DATASETS

    cards = [DATASETS[name].card for name in DATASETS.names()]
    if as_json:
        common.print_json([{**vars(card), "has": sorted(card.has)} for card in cards])
        return
    for card in cards:
        typer.echo(
            f"{card.name}\n  {card.summary}\n  has: {', '.join(sorted(card.has))}\n"
            f"  splits: {', '.join(card.splits)}\n  from: {card.source}"
        )
        if card.layout:
            typer.echo("\n    ".join(["  files:", *card.layout]) + "\n")
        else:
            typer.echo("  files: none, it is generated\n")


@app.command()
def show(
    name: Name,
    root: Root = None,
    split: Split = None,
    options: common.Options = None,
    n: Annotated[int, typer.Option(min=1, max=400, help="How many images.")] = 8,
    side: Annotated[int, typer.Option(min=48, max=1024, help="Long side of an image in pixels.")] = 224,
    columns: Annotated[int, typer.Option(min=1, help="Images per row.")] = 4,
    output: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("data.png"),
) -> None:
    """Draw a contact sheet: masks or boxes outlined, classes named."""
    from seewhy.data.base import sample_indices
    from seewhy.viz.contact import contact_sheet

    data = _load(name, root, split, options)
    samples = [data[i] for i in sample_indices(n, len(data))]
    output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(samples, columns, side=side, names=data.class_names).save(output, format="PNG")
    typer.echo(f"{len(samples)} of {len(data)} samples in {output}")


@app.command()
def check(
    name: Name, root: Root = None, split: Split = None, options: common.Options = None, as_json: common.AsJson = False
) -> None:
    """Read every sample; list those whose image or annotation is broken (exit code 9 if there are any)."""
    from seewhy.errors import DataError, SeewhyError

    data = _load(name, root, split, options)
    broken: dict[str, str] = {}
    labels = masks = boxes = 0
    for i in common.progress(range(len(data)), len(data), f"reading {name}"):
        try:
            sample = data[i]
        except SeewhyError as error:
            broken[data.ids[i]] = str(error)
            continue
        labels += len(sample.labels)
        masks += 0 if sample.masks is None else len(sample.masks)
        boxes += 0 if sample.boxes is None else len(sample.boxes)
    counts = {"samples": len(data), "labels": labels, "masks": masks, "boxes": boxes, "classes": len(data.class_names)}
    if as_json:
        common.print_json({**counts, "broken": broken})
    else:
        typer.echo(", ".join(f"{count} {what}" for what, count in counts.items()))
        for sample_id, reason in broken.items():
            typer.echo(f"broken: {sample_id}: {reason}")
    if broken:
        raise typer.Exit(DataError.exit_code)


def _load(name: str, root: Path | None, split: str | None, options: list[str] | None) -> Dataset:
    from seewhy.data import load_data

    return load_data(name, root, split, **common.parse_options(options))


@app.command()
def scenes(
    split: Annotated[str, typer.Option(help="Which split: single, multi, concept, blank …")] = "multi",
    n: Annotated[int, typer.Option(min=1, max=400, help="How many scenes.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    size: Annotated[int, typer.Option(help="Side of an image in pixels, a multiple of 16.")] = 96,
    columns: Annotated[int, typer.Option(min=1, help="Images per row.")] = 4,
    scale: Annotated[int, typer.Option(min=1, max=8, help="Screen pixels per image pixel.")] = 2,
    output: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("scenes.png"),
) -> None:
    """Draw a contact sheet of synthetic scenes: masks outlined, classes and textures named."""
    from seewhy.data.scenes import Scenes
    from seewhy.viz.contact import contact_sheet

    output.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(list(Scenes(split, seed, n, size)), columns, scale).save(output, format="PNG")
    typer.echo(f"{n} scenes of {split!r} in {output}")
