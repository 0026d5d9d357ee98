"""Maps that know nothing of the model: what any method must beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SIDE = 14  # cells a side, as a ViT-B/16 at 224 pixels has


@dataclass(frozen=True)
class Baseline:
    """A map made of numbers alone.

    Attributes:
        make: from the plan's seed, the item's position in the data set and the class to the map.
    """

    name: str
    title: str
    summary: str
    class_specific: bool
    make: Callable[[int, int, int], Float[Tensor, "rows cols"]]


def _random(seed: int, index: int, label: int) -> Tensor:
    draws = np.random.default_rng([seed, index, label + 1]).normal(size=(SIDE, SIDE))
    return torch.from_numpy(draws).float()


def _center(seed: int, index: int, label: int) -> Tensor:
    line = torch.linspace(-1, 1, SIDE)
    return torch.exp(-2 * (line[:, None] ** 2 + line[None] ** 2))


BASELINES = {
    each.name: each
    for each in (
        Baseline("random", "Random map", "Normal noise, another map for each item and class.", True, _random),
        Baseline("center", "Center", "A Gaussian in the middle, the same for every picture.", False, _center),
    )
}
