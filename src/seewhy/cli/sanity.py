"""`seewhy sanity`: does the map change when the model forgets what it has learnt?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.cli import common

if TYPE_CHECKING:
    from seewhy.analysis.randomization import CascadingRandomization


def sanity(
    image: Annotated[Path, typer.Argument(help="One photo.", show_default=False)],
    model: common.Model = common.DEFAULT_MODEL,
    method: common.Methods = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Class name or number, top-1 …; it stays the same throughout.")
    ] = None,
    layer: common.LayerName = None,
    option: common.Options = None,
    steps: Annotated[int, typer.Option(help="How many models, from a random head to random weights only.")] = 7,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The figure.")] = Path("out/sanity.png"),
    device: common.Device = None,
    architecture: common.Architecture = None,
    as_json: common.AsJson = False,
) -> None:
    """Randomize the model's layers from the head down; a map that stays the same explains something else."""
    from seewhy.analysis import randomization as check
    from seewhy.viz.randomization import randomization_figure

    common.figure_path(out)
    loaded = common.load(model, architecture, device)
    tools = common.configured(loaded, method, layer, option)
    cascades = check.sanity(loaded, image, tools, target, steps=steps, seed=seed, progress=common.progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    title = f"{image.name} · {loaded.name} · ρ: rank correlation with the trained model's map"
    randomization_figure(cascades, title).save(out)
    if as_json:
        common.print_json(
            {
                "image": str(image),
                "model": loaded.name,
                "figure": str(out),
                "methods": [_row(cascade) for cascade in cascades],
            }
        )
        return
    for cascade in cascades:
        last = cascade.steps[-1].spearman
        found = cascade.verdict or ("changes" if last is None else f"changes (rank correlation {last:.2f} at the end)")
        typer.echo(f"{cascade.trained.method_title}: {found}")
    typer.echo(str(out))


def _row(cascade: CascadingRandomization) -> dict[str, Any]:
    return {
        "method": cascade.trained.method,
        "target": cascade.trained.target,
        "verdict": cascade.verdict,
        "steps": [
            {"layer": s.layer, "spearman": s.spearman, "ssim": s.ssim, "finite": s.explanation is not None}
            for s in cascade.steps
        ],
    }
