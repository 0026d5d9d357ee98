"""`seewhy demo`: two images explained, on one page."""

from __future__ import annotations

from pathlib import Path

import typer

from seewhy.cli import common
from seewhy.cli.loading import Device


def demo(out: common.Out = Path("out/demo"), device: Device = None) -> None:
    """Explain two images of scikit-image with an ImageNet network, on one page; offline."""
    from seewhy.cli.demo_page import build

    page = build(out, device=device, progress=common.progress)
    typer.echo(f"open {page.resolve()}")
