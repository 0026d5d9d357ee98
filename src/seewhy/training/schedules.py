"""Learning rates over a run, as factors of the rate that was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Moment:
    """A place in a run.

    Attributes:
        step: Steps taken before.
        steps: Steps of the whole run.
        per_epoch: Steps of an epoch.
    """

    step: int
    steps: int
    per_epoch: int


Schedule: TypeAlias = Callable[[Moment], float]
"""From the moment to the factor. Those below are frozen dataclasses, so a checkpoint can tell them apart."""


@dataclass(frozen=True)
class Constant:
    """One learning rate for all steps."""

    def __call__(self, now: Moment) -> float:
        """Return the factor."""
        return 1.0


@dataclass(frozen=True)
class Exponential:
    """βᵉ in epoch e (from 0): with the rate α it is αβᵉ, as in the fine-tuning of the CDAM paper (§5.1).

    Attributes:
        decay: β.
    """

    decay: float = 0.95

    def __call__(self, now: Moment) -> float:
        """Return the factor."""
        return self.decay ** (now.step // now.per_epoch)


@dataclass(frozen=True)
class Cosine:
    """A linear rise, then half a cosine down to zero (Loshchilov & Hutter, SGDR, 2017, eq. 5, without restarts).

    Attributes:
        warmup: Steps in which the rate rises.
    """

    warmup: int = 0

    def __call__(self, now: Moment) -> float:
        """Return the factor."""
        if now.step < self.warmup:
            return (now.step + 1) / self.warmup
        done = (now.step - self.warmup) / max(1, now.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Cyclic:
    """Up and down in straight lines between a floor and 1 (Smith, Cyclical learning rates, 2017: "triangular").

    Attributes:
        half: Epochs from the floor to the top.
        floor: The smallest factor.
    """

    half: float = 4.0
    floor: float = 0.1

    def __call__(self, now: Moment) -> float:
        """Return the factor."""
        place = now.step / now.per_epoch / self.half % 2
        return self.floor + (1 - self.floor) * (1 - abs(1 - place))


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "constant": Constant,
    "exponential": Exponential,
    "cosine": Cosine,
    "cyclic": Cyclic,
}
