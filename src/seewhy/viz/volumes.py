"""Slices of a volume in a row, with its map on one scale."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from seewhy.explanation.volume import NAMES, VolumeExplanation
from seewhy.viz.figures import grid


def slices_figure(
    explanation: VolumeExplanation,
    slices: int | Sequence[int] = 6,
    axis: int = 0,
    title: str | None = None,
    cell: int = 160,
) -> Image.Image:
    """Draw slices of a volume in a row: what the model saw, and the map over it.

    Args:
        explanation: The map of a volume.
        slices: How many, evenly spaced with the strongest among them, or their numbers.
        axis: 0 for slices along depth, 1 along rows, 2 along columns.
        title: Above all; by default method and target.
        cell: Longest side of a slice in pixels.

    Raises:
        OptionError: There is no such slice or axis.
    """
    numbers = _spaced(explanation, slices, axis) if isinstance(slices, int) else list(slices)
    drawn = [explanation.overlay(index=number, axis=axis, size=None) for number in numbers]
    seen = [explanation._picture(number, axis) for number in numbers]
    rows: list[list[Image.Image | None]] = [list(seen), list(drawn)] if all(seen) else [list(drawn)]
    columns = [f"{NAMES[axis]} {number}" for number in numbers]
    return grid(rows, col_titles=columns, title=title or explanation.title, cell=cell)


def _spaced(explanation: VolumeExplanation, count: int, axis: int) -> list[int]:
    """Return evenly spaced slices, the one nearest to the strongest replaced by it."""
    depth = explanation._shape[axis]
    count = max(1, min(count, depth))
    numbers = [int((i + 0.5) * depth / count) for i in range(count)]
    best = explanation.strongest_slice(axis)
    nearest = min(range(count), key=lambda i: abs(numbers[i] - best))
    numbers[nearest] = best
    return sorted(set(numbers))
