"""`seewhy info`: a model's structure, and which methods support it."""

from __future__ import annotations

from typing import Annotated

import typer

from seewhy.cli import common
from seewhy.cli.loading import MODEL_HELP, Loading, with_model


@with_model
def info(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    as_json: common.AsJson = False,
    loading: Loading = Loading(),
) -> None:
    """Show a model's layers, token grid and capabilities, which methods support it, and why others do not."""
    from seewhy.cli.model_report import model_report

    loaded = loading.model(model)
    facts = model_report(loaded)
    if as_json:
        common.print_json(facts)
        return
    from rich.console import Console

    console = Console()
    console.print(
        f"[bold]{facts['name']}[/] ({facts['source']}), {facts['parameters'] / 1e6:.1f} M parameters, "
        f"input {'×'.join(map(str, facts['input']))}",
        highlight=False,
    )
    console.print(f"capabilities: {', '.join(facts['capabilities'])}", highlight=False)
    for key in ("classes", "embedding", "grid", "prefix_tokens", "note"):
        if facts[key]:
            console.print(f"{key.replace('_', ' ')}: {facts[key]}", highlight=False)
    console.print(f"preprocessing: {facts['preprocess']}", highlight=False)
    console.print(f"  known from: {facts['preprocess_origin']}", highlight=False)
    common.print_table(
        ("layer", "layout", "grid", "channels"),
        [
            (
                stage["name"] + ("  ← default for Grad-CAM" if stage["name"] == facts["cam_layer"] else ""),
                stage["layout"],
                "×".join(map(str, stage["grid"])),
                str(stage["channels"]),
            )
            for stage in facts["stages"]
        ],
    )
    common.print_table(
        ("method", "supported", ""),
        [(name, "no" if why else "yes", why or _first(name)) for name, why in facts["methods"].items()],
    )


def _first(name: str) -> str:
    from seewhy.methods import METHODS

    return f"trained first: `seewhy train {name}`" if METHODS[name].card.trained else ""
