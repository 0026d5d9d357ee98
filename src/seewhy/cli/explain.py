"""`seewhy explain`: photos in, pictures of what the model looks at out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from seewhy.cli import common
from seewhy.errors import ConstantMapError

if TYPE_CHECKING:
    from seewhy.explainer import Outcome


def explain(
    images: common.Images,
    model: common.Model = common.DEFAULT_MODEL,
    method: common.Methods = None,
    target: common.Targets = None,
    top: common.Top = None,
    concept: common.Concept = None,
    reference: common.Reference = None,
    measure: common.Measure = "dot",
    layer: common.LayerName = None,
    option: common.Options = None,
    out: common.Out = Path("out/explain"),
    device: common.Device = None,
    architecture: common.Architecture = None,
    batch_size: int = typer.Option(8, help="Photos per forward pass."),
    max_pixels: common.MaxPixels = 100_000_000,
    as_json: common.AsJson = False,
) -> None:
    """Explain photos: one picture with all methods for each, and each map in a folder of its own.

    A photo that fails is reported and the others still come out; the exit code is then that of the first error.
    """
    from seewhy.explainer import explain_each

    loaded = common.load(model, architecture, device)
    tools = common.configured(loaded, method, layer, option)
    targets = common.all_targets(loaded, target, top, concept, reference, measure)
    paths = common.all_images(images)
    run = explain_each(loaded, paths, tools, targets, batch_size=batch_size, max_pixels=max_pixels)
    rows, code = [], 0
    names = common.numbered(path.stem for path in paths)
    for outcome, name in zip(common.progress(run, len(paths), "explaining"), names, strict=True):
        new = _write(outcome, out / name)
        code = code or next((row["exit_code"] for row in new if row["error"]), 0)
        rows += new
        if not as_json:
            _report(outcome, out / name, new)
    if as_json:
        common.print_json(rows)
    raise typer.Exit(code)


def _write(outcome: Outcome, folder: Path) -> list[dict]:
    """Save everything of one photo; a row for each map, or one with the error."""
    if outcome.error:
        return [_row(outcome.source, error=str(outcome.error), exit_code=outcome.error.exit_code)]
    from seewhy.viz.figures import explanation_grid

    folder.mkdir(parents=True, exist_ok=True)
    explanation_grid(outcome.explanations).save(folder / "grid.png")
    rows = []
    maps = list(dict.fromkeys(e for row in outcome.explanations for e in row))  # a label-free map stands in every row
    names = common.numbered(common.slug(f"{e.method} {e.target.get('label') or ''}") for e in maps)
    for explanation, name in zip(maps, names, strict=True):
        explanation.save(folder / name)
        constant = ConstantMapError(explanation.constant_advice) if explanation.is_constant else None
        rows.append(
            _row(
                outcome.source,
                model=explanation.model,
                method=explanation.method,
                target=explanation.target,
                layer=explanation.layer,
                grid=list(explanation.attribution.shape),
                seconds=explanation.seconds,
                folder=str(folder / name),
                error=str(constant) if constant else None,
                exit_code=constant.exit_code if constant else 0,
            )
        )
    return rows


def _row(source: str, **values: object) -> dict:
    return {"image": source, "error": None, "exit_code": 0, **values}


def _report(outcome: Outcome, folder: Path, rows: list[dict]) -> None:
    for row in rows:
        if row["error"]:
            common.report_error(outcome.source, row["error"])
    if not outcome.error:
        best = ", ".join(f"{label} {chance:.0%}" for label, _, chance in outcome.top[:3])
        typer.echo(f"{outcome.source}: {best + ' → ' if best else ''}{folder / 'grid.png'}")
