"""`seewhy compare`: methods × targets for one photo, in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seewhy.cli import common
from seewhy.errors import MissingExtraError

if TYPE_CHECKING:
    from seewhy.models.adapter import VisionModel


def compare(
    image: Annotated[Path, typer.Argument(help="One photo.", show_default=False)],
    model: common.Model = common.DEFAULT_MODEL,
    method: common.Methods = None,
    target: common.Targets = None,
    top: common.Top = None,
    concept: common.Concept = None,
    reference: common.Reference = None,
    measure: common.Measure = "dot",
    layer: common.LayerName = None,
    option: common.Options = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The figure: a PNG, or an HTML page with what each method shows, its cost and its citation.",
        ),
    ] = Path("out/compare.png"),
    full: Annotated[bool, typer.Option(help="Each method's own number of repetitions, not a quick look.")] = False,
    device: common.Device = None,
    architecture: common.Architecture = None,
    max_pixels: common.MaxPixels = 100_000_000,
    as_json: common.AsJson = False,
) -> None:
    """Lay methods (columns) and targets (rows) side by side; by default every method that can serve the model.

    The whole catalog is shown with few repetitions (noise samples, steps, masks) unless --full is given.
    """
    from seewhy.explainer import explain_each
    from seewhy.methods import METHODS
    from seewhy.methods.factory import quick_options
    from seewhy.viz.comparison import save_comparison

    common.figure_path(out, ".html", ".htm")
    loaded = common.load(model, architecture, device)
    targets = common.all_targets(loaded, target, top, concept, reference, measure)
    every = [] if method else _catalog(loaded, with_concepts=concept is not None)
    quick = {} if full or method else {m: quick_options(METHODS[m]) for m in every}
    tools = common.configured(loaded, method or every, layer, option, quick)
    (outcome,) = common.progress(explain_each(loaded, [image], tools, targets, max_pixels=max_pixels), 1, "comparing")
    if outcome.error:
        raise outcome.error
    save_comparison(outcome.explanations, tools, out, f"{image.name} · {loaded.name}")
    if not as_json:
        typer.echo(str(out))
        return
    about = {
        tool.card.name: {"shows": tool.card.summary, "cost": str(tool.cost), "citation": tool.card.citation}
        for tool in tools
    }
    common.print_json(
        {
            "image": str(image),
            "model": loaded.name,
            "figure": str(out),
            "maps": [
                {
                    "method": e.method,
                    "target": e.target,
                    "layer": e.layer,
                    "grid": list(e.attribution.shape),
                    "seconds": e.seconds,
                    "constant": e.is_constant,
                    **about[e.method],
                }
                for row in outcome.explanations
                for e in row
            ],
        }
    )


def _catalog(model: VisionModel, with_concepts: bool) -> list[str]:
    """Every method that can serve the model here; those whose library is missing are named on standard error."""
    from seewhy.methods import METHODS

    names = []
    for cls in METHODS.values():
        if cls.why_incompatible(model) or (cls.card.target_kind and not with_concepts):
            continue
        try:
            cls(model)
        except MissingExtraError as error:
            typer.echo(f"left out: {cls.card.name}: {error}", err=True)
        else:
            names.append(cls.card.name)
    return names
