"""`seewhy info`: what seewhy sees in a model."""

from __future__ import annotations

from typing import Annotated

import typer

from seewhy.cli import common


def info(
    model: Annotated[str, typer.Argument(help="A name of `seewhy models`, or a checkpoint's path.")],
    architecture: common.Architecture = None,
    device: common.Device = None,
    as_json: common.AsJson = False,
) -> None:
    """Show a model's layers, grid and prefix tokens, what it offers, which methods work, and why others do not."""
    loaded = common.load(model, architecture, device)
    from seewhy.cli.model_report import report

    facts = report(loaded)
    if as_json:
        common.print_json(facts)
        return
    from rich.console import Console

    console = Console()
    console.print(
        f"[bold]{facts['name']}[/] ({facts['source']}), {facts['parameters'] / 1e6:.1f} M parameters, "
        f"input {facts['input'][0]}×{facts['input'][1]}",
        highlight=False,
    )
    console.print(f"offers: {', '.join(facts['offers'])}", highlight=False)
    for key in ("classes", "embedding", "grid", "prefix_tokens", "note"):
        if facts[key]:
            console.print(f"{key.replace('_', ' ')}: {facts[key]}", highlight=False)
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
        ("method", "works", ""), [(name, "no" if why else "yes", why) for name, why in facts["methods"].items()]
    )
