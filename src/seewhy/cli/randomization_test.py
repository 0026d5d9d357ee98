"""`seewhy randomization-test`: does a map change when the model's weights are randomized?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.cli import common
from seewhy.cli.loading import Loading, with_model

if TYPE_CHECKING:
    from seewhy.analysis import CascadingRandomization


@with_model
def randomization_test(
    image: Annotated[Path, typer.Argument(help="One image.", show_default=False)],
    model: common.Model = common.DEFAULT_MODEL,
    method: common.Methods = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Class name or number, top-1 …; the same for all models.")
    ] = None,
    layer: common.LayerName = None,
    option: common.Options = None,
    steps: Annotated[int, typer.Option(help="How many models, from a random head to random weights only.")] = 7,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="The figure.")] = Path("out/randomization_test.png"),
    as_json: common.AsJson = False,
    loading: Loading = Loading(),
) -> None:
    """Randomize the model's weights from the head down (Adebayo et al. 2018); a faithful map changes with them."""
    from seewhy import analysis
    from seewhy.viz.randomization import randomization_figure

    common.figure_path(out)
    loaded = loading.model(model)
    methods = common.configured_methods(loaded, method, layer, option)
    cascades = analysis.randomization_test(
        loaded, image, methods, target, steps=steps, seed=seed, progress=common.progress
    )
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
        typer.echo(f"{cascade.trained.method_title}: {_verdict(cascade)}")
    typer.echo(str(out))


def _verdict(cascade: CascadingRandomization) -> str:
    if cascade.verdict:
        return cascade.verdict
    correlation = cascade.steps[-1].spearman
    return "changes" if correlation is None else f"changes (rank correlation {correlation:.2f} at the end)"


def _row(cascade: CascadingRandomization) -> dict[str, Any]:
    return {
        "method": cascade.trained.method,
        "target": cascade.trained.target,
        "verdict": cascade.verdict,
        "steps": [
            {
                "layer": step.layer,
                "spearman": step.spearman,
                "ssim": step.ssim,
                "finite": step.explanation is not None,
            }
            for step in cascade.steps
        ],
    }
