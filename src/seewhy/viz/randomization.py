"""The figure of a randomization test: one row for each method, one column for each depth of randomization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from seewhy.explanation import Explanation
from seewhy.viz.figures import Cell, grid


class RandomizedMap(Protocol):
    """A map of a partly random model; see `seewhy.analysis.RandomizationStep`."""

    @property
    def layer(self) -> str:
        """The deepest random layer."""
        ...

    @property
    def explanation(self) -> Explanation | None:
        """The map; None where the random model gives NaN or infinity."""
        ...

    @property
    def spearman(self) -> float | None:
        """Rank correlation with the trained model's map."""
        ...

    @property
    def ssim(self) -> float | None:
        """Structural similarity to the trained model's map."""
        ...


class Cascade(Protocol):
    """The maps of one method; see `seewhy.analysis.CascadingRandomization`."""

    @property
    def trained(self) -> Explanation:
        """The trained model's map."""
        ...

    @property
    def steps(self) -> Sequence[RandomizedMap]:
        """The maps of ever more random models."""
        ...

    @property
    def verdict(self) -> str:
        """Empty if the map changes; else what a reader must know."""
        ...


def randomization_figure(cascades: Sequence[Cascade], title: str, cell: int = 180) -> Image.Image:
    """Draw the maps with their similarity to the trained model's; rows of methods that do not change are red.

    Args:
        cascades: What `seewhy.randomization_test` returns.
        title: Above all.
        cell: Longest side of a cell in pixels.
    """
    rows: list[list[Cell]] = []
    captions, names = [], []
    for i, cascade in enumerate(cascades):
        image = cascade.trained.image if i == 0 else None
        rows.append([image, cascade.trained, *(step.explanation for step in cascade.steps)])
        captions.append(["", cascade.trained.target_title, *map(_caption, cascade.steps)])
        method = cascade.trained.method_title
        names.append(f"{method}: {cascade.verdict}" if cascade.verdict else method)
    columns = ["image", "trained", *(f"random down to {step.layer}" for step in cascades[0].steps)]
    alarm = [i for i, cascade in enumerate(cascades) if cascade.verdict]
    return grid(rows, names, columns, title, captions, cell, alarm=alarm)


def _caption(step: RandomizedMap) -> str:
    if step.explanation is None:
        return "the random model gives NaN or infinity"
    if step.spearman is None:
        return "constant map"
    correlation = f"ρ {step.spearman:.2f}"
    return correlation if step.ssim is None else f"{correlation} · SSIM {step.ssim:.2f}"
