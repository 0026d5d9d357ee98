"""`seewhy compare`: methods × targets for one photo, in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seewhy.cli import common


def compare(
    image: Annotated[Path, typer.Argument(help="One photo.", show_default=False)],
    model: common.Model = common.DEFAULT_MODEL,
    method: common.Methods = None,
    target: common.Targets = None,
    concept: common.Concept = None,
    reference: common.Reference = None,
    measure: common.Measure = "dot",
    layer: common.LayerName = None,
    option: common.Options = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The figure.")] = Path("out/compare.png"),
    device: common.Device = None,
    architecture: common.Architecture = None,
    max_pixels: common.MaxPixels = 100_000_000,
    as_json: common.AsJson = False,
) -> None:
    """Lay methods (columns) and targets (rows) side by side; by default every method that can serve the model."""
    from seewhy.explainer import explain_each
    from seewhy.methods import METHODS
    from seewhy.viz.grid import explanation_grid

    loaded = common.load(model, architecture, device)
    names = method or [m.card.name for m in METHODS if not m.unmet(loaded) and not m.card.target_kind]
    tools = common.configured(loaded, names, layer, option)
    targets = common.all_targets(loaded, target, concept, reference, measure)
    (outcome,) = explain_each(loaded, [image], tools, targets, max_pixels=max_pixels)
    if outcome.error:
        raise outcome.error
    out.parent.mkdir(parents=True, exist_ok=True)
    explanation_grid(outcome.maps, title=f"{image.name} · {loaded.name}").save(out)
    if not as_json:
        typer.echo(str(out))
        return
    common.print_json({"image": str(image), "model": loaded.name, "figure": str(out), "maps": [
        {"method": e.method, "target": e.target, "layer": e.layer, "grid": list(e.map.shape), "seconds": e.seconds,
         "constant": e.is_constant} for row in outcome.maps for e in row]})
