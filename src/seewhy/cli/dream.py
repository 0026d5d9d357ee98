"""`seewhy dream`: the picture that a class wants to see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seewhy.cli import common

Goal = Annotated[
    str,
    typer.Option("--class", "-c", help="Class name or number, embedding-sum or embedding-norm.", show_default=False),
]


def dream(
    target: Goal,
    model: common.Model = common.DEFAULT_MODEL,
    steps: Annotated[int, typer.Option(help="Number of steps.")] = 200,
    step: Annotated[float, typer.Option(help="How far one goes, in units of the data's spread.")] = 0.15,
    l2: Annotated[float, typer.Option(help="Penalty of the squared norm: larger stays nearer to gray.")] = 3e-4,
    jitter: Annotated[
        int | None, typer.Option(help="Largest random shift in pixels; 0: none; default: 1/8 of the side.")
    ] = None,
    blur: Annotated[float, typer.Option(help="Sigma in pixels of the blur after each step; 0: none.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Of the shifts.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The GIF; the last picture lies beside it as PNG.")] = Path(
        "out/dream.gif"
    ),
    device: common.Device = None,
    architecture: common.Architecture = None,
    as_json: common.AsJson = False,
) -> None:
    """Climb a class's score from a gray picture: what the model looks for, as a GIF of the ascent."""
    from seewhy.analysis import activation_maximization as dreams

    loaded = common.load(model, architecture, device)
    found = dreams.dream(
        loaded, target, steps=steps, step=step, l2=l2, jitter=jitter, blur=blur, seed=seed, progress=common.progress
    )
    gif, png = found.save(out)
    if as_json:
        common.print_json(
            {
                "model": loaded.name,
                "target": found.label,
                "gif": str(gif),
                "picture": str(png),
                "scores": [round(score, 4) for score in found.scores],
            }
        )
        return
    typer.echo(f"{found.label}: {found.scores[0]:.1f} → {found.scores[-1]:.1f}; {gif}, {png}")
