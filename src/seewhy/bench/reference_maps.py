"""Maps that do not use the model: what any method must beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SIDE = 14
"""Cells a side, as a ViT-B/16 at 224 pixels has."""


@dataclass(frozen=True)
class ReferenceMap:
    """A map made without the model.

    Attributes:
        name: Name in plans and results.
        title: Name in reports.
        summary: One sentence: what the map is.
        class_specific: Whether the map depends on the class.
        make: Map from the plan's seed, the sample's position in the dataset and the class (-1: none).
    """

    name: str
    title: str
    summary: str
    class_specific: bool
    make: Callable[[int, int, int], Float[Tensor, "rows cols"]]


def _random(seed: int, index: int, class_index: int) -> Tensor:
    draws = np.random.default_rng([seed, index, class_index + 1]).normal(size=(SIDE, SIDE))
    return torch.from_numpy(draws).float()


def _center(seed: int, index: int, class_index: int) -> Tensor:
    line = torch.linspace(-1, 1, SIDE)
    return torch.exp(-2 * (line[:, None] ** 2 + line[None] ** 2))


REFERENCE_MAPS = {
    each.name: each
    for each in (
        ReferenceMap("random", "Random map", "Normal noise, another map for each image and class.", True, _random),
        ReferenceMap("center", "Center", "A Gaussian in the middle, the same for every image.", False, _center),
    )
}
