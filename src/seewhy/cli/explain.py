"""`seewhy explain`: images in, heat maps out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seewhy.cli import common
from seewhy.cli.loading import Loading, with_model
from seewhy.errors import ConstantMapError, MissingExtraError, SeewhyError

if TYPE_CHECKING:
    from seewhy.explainer import Answer, Outcome
    from seewhy.explanation import Explanation

Row = dict[str, Any]


@with_model
def explain(
    images: common.Images,
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
    out: common.Out = Path("out/explain"),
    zero_shot: common.ZeroShot = None,
    template: common.Templates = None,
    batch_size: int = typer.Option(8, help="Images per forward pass."),
    on_image: bool = typer.Option(False, "--on-image", help="Also draw each map over the whole image."),
    max_pixels: common.MaxPixels = common.DEFAULT_MAX_PIXELS,
    as_json: common.AsJson = False,
    loading: Loading = Loading(),
) -> None:
    """Explain images: one figure with all methods for each image, and each map in a folder of its own.

    An image that fails is reported and the others are still explained; the exit code is then that of the first error.
    """
    from seewhy.core.streams import saved_behind
    from seewhy.explainer import explain_each

    loaded = common.opened(loading, model, weights, zero_shot, template)
    methods = common.configured_methods(loaded, method, layer, option, weights=weights)
    targets = common.requested_targets(loaded, target, top, concept, reference, measure, against)
    paths, code = common.expand_images(images, one_by_one=loaded.structure.volume)
    names = common.folder_names(paths)
    outcomes = explain_each(loaded, paths, methods, targets, batch_size=batch_size, max_pixels=max_pixels)
    rows: list[Row] = []
    saved = saved_behind(
        lambda pair: (*pair, _saved(pair[0], pair[1], on_image)),
        ((outcome, out / name) for outcome, name in zip(outcomes, names, strict=True)),
    )
    for outcome, folder, new_rows in common.progress(saved, len(paths), "explaining"):
        rows += new_rows
        if not as_json:
            _report(outcome, folder, new_rows)
    if as_json:
        common.print_json(rows)
    raise typer.Exit(next((row["exit_code"] for row in rows if row["error"]), code))


def _saved(outcome: Outcome, folder: Path, on_image: bool) -> list[Row]:
    """Save everything of one image; what cannot be written costs this image only."""
    try:
        return _save(outcome, folder, on_image)
    except OSError as error:
        reason = f"{error.filename or folder} cannot be written ({error.strerror or error}); choose another --out"
        return [_row(outcome.source, error=reason, exit_code=SeewhyError.exit_code)]
    except SeewhyError as error:
        return [_row(outcome.source, error=str(error), exit_code=error.exit_code)]


def _save(outcome: Outcome, folder: Path, on_image: bool) -> list[Row]:
    """Save everything of one image; return a row for each map, or one with the error."""
    if outcome.error:
        return [_row(outcome.source, error=str(outcome.error), exit_code=outcome.error.exit_code)]
    from seewhy.core.images import save_png
    from seewhy.viz.figures import explanation_grid

    folder.mkdir(parents=True, exist_ok=True)
    save_png(explanation_grid(outcome.explanations), folder / "grid.png")
    explanations = list(dict.fromkeys(e for row in outcome.explanations for e in row))  # a label-free map is in each
    names = common.number_repeats(common.slug(f"{e.method} {e.target.get('label') or ''}") for e in explanations)
    rows = []
    for explanation, name in zip(explanations, names, strict=True):
        explanation.save(folder / name)
        if on_image:
            save_png(explanation.overlay_on_image(), folder / f"{name}_on_image.png")
        rows.append(_map_row(outcome.source, explanation, folder / name))
    return rows


def _map_row(source: str, explanation: Explanation, folder: Path) -> Row:
    constant = ConstantMapError(explanation.constant_advice) if explanation.is_constant else None
    return _row(
        source,
        model=explanation.model,
        method=explanation.method,
        target=explanation.target,
        layer=explanation.layer,
        grid=list(explanation.attribution.shape),
        seconds=explanation.seconds,
        folder=str(folder),
        box=explanation.box,
        image_size=explanation.image_size,
        boxes=_boxes(explanation),
        error=str(constant) if constant else None,
        exit_code=constant.exit_code if constant else 0,
    )


def _boxes(explanation: Explanation) -> list[list[int]] | None:
    """Return the boxes of the map in the whole image, for JSON; None where they are not known, or scipy is missing."""
    if explanation.box is None:
        return None
    try:
        return [[box.left, box.top, box.right, box.bottom] for box in explanation.boxes()]
    except MissingExtraError:
        return None


def _row(source: str, **values: Any) -> Row:
    return {"image": source, "error": None, "exit_code": 0, **values}


def _report(outcome: Outcome, folder: Path, rows: list[Row]) -> None:
    for row in rows:
        if row["error"]:
            common.report_error(outcome.source, row["error"])
    if any("folder" in row for row in rows):
        best = ", ".join(map(_text, outcome.top[:3]))
        typer.echo(f"{outcome.source}: {best + ' → ' if best else ''}{folder / 'grid.png'}")


def _text(answer: Answer) -> str:
    return f"{answer.label} " + (f"{answer.logit:.4g}" if answer.probability is None else f"{answer.probability:.0%}")
