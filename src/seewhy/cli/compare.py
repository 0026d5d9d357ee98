"""`seewhy compare`: methods × targets for one image, in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seewhy.cli import common
from seewhy.cli.loading import Loading, with_model
from seewhy.errors import MissingExtraError

if TYPE_CHECKING:
    from seewhy.explanation import Explanation
    from seewhy.methods.base import Method
    from seewhy.models.adapter import VisionModel


@with_model
def compare(
    image: Annotated[Path, typer.Argument(help="One image.", show_default=False)],
    model: common.Model = common.DEFAULT_MODEL,
    method: common.Methods = None,
    target: common.Targets = None,
    top: common.Top = None,
    concept: common.Concept = None,
    reference: common.Reference = None,
    measure: common.Measure = "dot",
    against: common.Against = False,
    layer: common.LayerName = None,
    option: common.Options = None,
    weights: common.Weights = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The figure: a PNG, or an HTML page with what each method shows, its cost and its citation.",
        ),
    ] = Path("out/compare.png"),
    full: Annotated[
        bool, typer.Option(help="Use each method's default number of repetitions, not a quick look.")
    ] = False,
    zero_shot: common.ZeroShot = None,
    template: common.Templates = None,
    max_pixels: common.MaxPixels = common.DEFAULT_MAX_PIXELS,
    as_json: common.AsJson = False,
    loading: Loading = Loading(),
) -> None:
    """Compare methods (columns) and targets (rows) side by side; by default every method that supports the model.

    The whole catalog is shown with few repetitions (noise samples, steps, masks) unless --full is given.
    """
    from seewhy.explainer import explain_each
    from seewhy.methods import METHODS
    from seewhy.methods.factory import quick_options
    from seewhy.viz.comparison import save_comparison

    common.figure_path(out, ".html", ".htm")
    loaded = common.opened(loading, model, weights, zero_shot, template)
    targets = common.requested_targets(loaded, target, top, concept, reference, measure, against)
    catalog = [] if method else _supported_methods(loaded, with_concepts=concept is not None)
    if weights is not None and not method:
        catalog.append(common.trained_method(weights))
    quick: dict[str, dict[str, Any]] = {}
    if not full:
        quick = {name: dict(quick_options(METHODS[name])) for name in catalog}
    methods = common.configured_methods(loaded, method or catalog, layer, option, quick, weights)
    outcomes = explain_each(loaded, [image], methods, targets, max_pixels=max_pixels)
    (outcome,) = common.progress(outcomes, 1, "comparing")
    if outcome.error:
        raise outcome.error
    save_comparison(outcome.explanations, methods, out, f"{image.name} · {loaded.name}")
    if not as_json:
        typer.echo(str(out))
        return
    cards = {method.card.name: _card(method) for method in methods}
    common.print_json(
        {
            "image": str(image),
            "model": loaded.name,
            "figure": str(out),
            "maps": [_row(e, cards[e.method]) for row in outcome.explanations for e in row],
        }
    )


def _card(method: Method) -> dict[str, str]:
    return {"shows": method.card.summary, "cost": str(method.cost), "citation": method.card.citation}


def _row(explanation: Explanation, card: dict[str, str]) -> dict[str, Any]:
    return {
        "method": explanation.method,
        "target": explanation.target,
        "layer": explanation.layer,
        "grid": list(explanation.attribution.shape),
        "seconds": explanation.seconds,
        "constant": explanation.is_constant,
        **card,
    }


def _supported_methods(model: VisionModel, with_concepts: bool) -> list[str]:
    """Return every method that supports the model here; those whose library is missing are named on standard error."""
    from seewhy.methods import METHODS

    names = []
    for cls in METHODS.values():
        if cls.card.trained or cls.why_incompatible(model) or (cls.card.target_kind and not with_concepts):
            continue
        try:
            cls(model)
        except MissingExtraError as error:
            typer.echo(f"left out: {cls.card.name}: {error}", err=True)
        else:
            names.append(cls.card.name)
    return names
