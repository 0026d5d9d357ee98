"""`seewhy demo`: real photos explained, in one page."""

from __future__ import annotations

from pathlib import Path

import typer

from seewhy.cli import common


def demo(out: common.Out = Path("out/demo"), device: common.Device = None) -> None:
    """Explain the cat and the coffee of scikit-image with a real ImageNet network; offline."""
    from seewhy.cli.demo_page import build

    page = build(out, device=device, progress=common.progress)
    typer.echo(f"open {page.resolve()}")
