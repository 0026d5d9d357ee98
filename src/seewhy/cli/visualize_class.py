"""`seewhy visualize-class`: the image that maximizes a class score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seewhy.cli import common
from seewhy.cli.loading import Loading, with_model


@with_model
def visualize_class(
    target: Annotated[
        str,
        typer.Option(
            "--class", "-c", help="Class name or number, embedding-sum or embedding-norm.", show_default=False
        ),
    ],
    model: common.Model = common.DEFAULT_MODEL,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = 200,
    step: Annotated[float, typer.Option(help="Length of a step, in units of the data's spread.")] = 0.15,
    l2: Annotated[float, typer.Option(help="Penalty of the squared norm: larger stays nearer to gray.")] = 3e-4,
    jitter: Annotated[
        int | None, typer.Option(help="Largest random shift in pixels; 0: none; default: 1/8 of the side.")
    ] = None,
    blur: Annotated[float, typer.Option(help="Sigma in pixels of the blur after each step; 0: none.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Seed of the shifts.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The GIF; the last image is written beside it as PNG.")
    ] = Path("out/visualize_class.gif"),
    as_json: common.AsJson = False,
    loading: Loading = Loading(),
) -> None:
    """Visualize a class by maximizing its score from a gray image; writes the ascent as a GIF."""
    from seewhy import analysis

    loaded = loading.model(model)
    result = analysis.visualize_class(
        loaded, target, steps=steps, step=step, l2=l2, jitter=jitter, blur=blur, seed=seed, progress=common.progress
    )
    gif, png = result.save(out)
    if as_json:
        common.print_json(
            {
                "model": loaded.name,
                "target": result.label,
                "gif": str(gif),
                "png": str(png),
                "scores": [round(score, 4) for score in result.scores],
            }
        )
        return
    typer.echo(f"{result.label}: {result.scores[0]:.1f} → {result.scores[-1]:.1f}; {gif}, {png}")
