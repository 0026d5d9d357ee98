"""`seewhy tcav`: is a class sensitive to what example pictures have in common?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seewhy.cli import common


def tcav(
    images: Annotated[Path, typer.Argument(help="A folder of photos of the class.", show_default=False)],
    target: Annotated[str, typer.Option("--class", "-c", help="Class name or number.", show_default=False)],
    concept: Annotated[Path, typer.Option(help="A folder of photos with the concept.", show_default=False)],
    random: Annotated[
        Path, typer.Option(help="A folder of any other photos, best several times as many.", show_default=False)
    ],
    model: common.Model = common.DEFAULT_MODEL,
    layer: common.LayerName = None,
    pool: Annotated[str, typer.Option(help="mean: wherever it is; flatten: place by place.")] = "mean",
    runs: Annotated[int, typer.Option(help="Random sets to compare with.")] = 20,
    alpha: Annotated[float | None, typer.Option(help="Also the smooth score, the mean of sigmoid(alpha·S).")] = None,
    seed: Annotated[int, typer.Option(help="Of the random sets.")] = 0,
    device: common.Device = None,
    architecture: common.Architecture = None,
    as_json: common.AsJson = False,
) -> None:
    """Share of photos whose class score grows towards a concept (TCAV), tested against random concepts."""
    from seewhy.analysis import tcav as concepts

    loaded = common.load(model, architecture, device)
    found = concepts.tcav(loaded, images, target, concept, random, layer=layer, pool=pool, runs=runs, seed=seed)
    smooth = None if alpha is None else found.smooth(alpha)
    if as_json:
        common.print_json(
            {
                "model": loaded.name,
                "layer": found.cav.layer.name,
                "score": found.score,
                "scores": found.scores,
                "random_scores": found.random_scores,
                "p": found.p_value,
                "accuracy": found.accuracy,
                "alpha": alpha,
                "smooth": smooth,
                "sensitivities": found.sensitivities.tolist(),
            }
        )
        return
    chance = sum(found.random_scores) / len(found.random_scores)
    typer.echo(
        f"{target} towards {concept.name} at {found.cav.layer.name}: TCAV {found.score:.2f} "
        f"(random concepts {chance:.2f}, p = {found.p_value:.2g})" + (f", α-TCAV {smooth:.2f}" if alpha else "")
    )
    typer.echo(
        f"the layer tells the concept from random photos in {found.accuracy:.0%} of held-out cases; near 50 % "
        "the score means nothing"
    )
