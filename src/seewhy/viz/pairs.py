"""Two images and what makes them similar."""

from __future__ import annotations

from PIL import Image

from seewhy.explanation import Explanation
from seewhy.viz.figures import grid


def pair_figure(first: Explanation, second: Explanation, title: str | None = None, cell: int = 240) -> Image.Image:
    """Draw both images side by side, their maps below.

    Args:
        first: What `seewhy.explain_pair` gives of the first image.
        second: That of the second.
        title: Above all; by default method and similarity.
        cell: Longest side of an image in pixels.
    """
    return grid([[first.image, second.image], [first, second]], title=title or first.title, cell=cell)
