"""`seewhy tcav`: is a class sensitive to what example images have in common?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seewhy.cli import common
from seewhy.cli.loading import Loading, with_model


@with_model
def tcav(
    images: Annotated[Path, typer.Argument(help="A folder of images of the class.", show_default=False)],
    target: Annotated[str, typer.Option("--class", "-c", help="Class name or number.", show_default=False)],
    concept: Annotated[Path, typer.Option(help="A folder of images with the concept.", show_default=False)],
    random: Annotated[
        Path, typer.Option(help="A folder of any other images, best several times as many.", show_default=False)
    ],
    model: common.Model = common.DEFAULT_MODEL,
    layer: common.LayerName = None,
    pool: Annotated[str, typer.Option(help="mean: wherever it is; flatten: place by place.")] = "mean",
    runs: Annotated[int, typer.Option(help="Random sets to compare with.")] = 20,
    alpha: Annotated[float | None, typer.Option(help="Also the smooth score, the mean of sigmoid(alpha·S).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random sets.")] = 0,
    as_json: common.AsJson = False,
    loading: Loading = Loading(),
) -> None:
    """Measure the share of images whose class score grows towards a concept (TCAV), tested against random concepts."""
    from seewhy import analysis

    loaded = loading.model(model)
    result = analysis.tcav(loaded, images, target, concept, random, layer=layer, pool=pool, runs=runs, seed=seed)
    smooth = None if alpha is None else result.smooth(alpha)
    if as_json:
        common.print_json(
            {
                "model": loaded.name,
                "layer": result.cav.layer.name,
                "score": result.score,
                "scores": result.scores,
                "random_scores": result.random_scores,
                "p": result.p_value,
                "accuracy": result.accuracy,
                "alpha": alpha,
                "smooth": smooth,
                "sensitivities": result.sensitivities.tolist(),
            }
        )
        return
    random_score = sum(result.random_scores) / len(result.random_scores)
    typer.echo(
        f"{target} towards {concept.name} at {result.cav.layer.name}: TCAV {result.score:.2f} "
        f"(random concepts {random_score:.2f}, p = {result.p_value:.2g})"
        + (f", α-TCAV {smooth:.2f}" if smooth is not None else "")
    )
    typer.echo(
        f"the layer separates the concept from random images in {result.accuracy:.0%} of held-out cases; near 50 % "
        "the score means nothing"
    )
