"""The figure of a sanity check: one row for each method, one column for each depth of forgetting."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from seewhy.analysis.randomization import CascadingRandomization, Step
from seewhy.viz.grid import grid


def sanity_figure(cascades: Sequence[CascadingRandomization], title: str, cell: int = 180) -> Image.Image:
    """Maps with their likeness to the trained model's; rows of methods that do not change are red."""
    photo = cascades[0].trained.image
    rows = [
        [photo if i == 0 else None, c.trained, *(step.explanation for step in c.steps)] for i, c in enumerate(cascades)
    ]
    captions = [["", c.trained.target_title, *map(_caption, c.steps)] for c in cascades]
    names = [f"{c.trained.method_title}: {c.verdict}" if c.verdict else c.trained.method_title for c in cascades]
    columns = ["photo", "trained", *_column_names(cascades[0])]
    alarm = [i for i, c in enumerate(cascades) if c.verdict]
    return grid(rows, names, columns, title, captions, cell, alarm=alarm)


def _column_names(cascade: CascadingRandomization) -> list[str]:
    return [f"random down to {step.layer}" for step in cascade.steps]


def _caption(step: Step) -> str:
    if step.explanation is None:
        return "the random model gives NaN or infinity"
    if step.spearman is None:
        return "constant map"
    likeness = f"ρ {step.spearman:.2f}"
    return likeness if step.ssim is None else f"{likeness} · SSIM {step.ssim:.2f}"
