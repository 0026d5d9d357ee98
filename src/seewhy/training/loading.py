"""Batches of a run: which samples, in which order, on which device; all functions of (seed, epoch, step).

So a run is resumed at any step without any state of loaders, and with any number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from torch.utils.data import DataLoader, Dataset

from seewhy.errors import DataError
from seewhy.training.task import Batch, TrainingData

_ORDER, _AUGMENTATION = 1, 2  # streams of random numbers of a run


class Part(NamedTuple):
    """Some samples of a step on one device.

    Attributes:
        indices: Their numbers.
        share: How much of the step's samples they are.
        batch: What is in them.
    """

    indices: list[int]
    share: float
    batch: Batch


@dataclass(frozen=True)
class Batching:
    """How an epoch is cut into steps, and steps into parts.

    Attributes:
        samples: In the data.
        batch_size: Samples per step, of all devices together.
        seed: Of the run.
        accumulate: Into how many parts each device cuts its share of a step.
        devices: How many take part.
        rank: Number of this one.
        drop_last: Whether the rest that is no full batch is left out.
    """

    samples: int
    batch_size: int
    seed: int
    accumulate: int = 1
    devices: int = 1
    rank: int = 0
    drop_last: bool = False

    @property
    def steps(self) -> int:
        """Steps of an epoch; a rest that is smaller than the number of devices is left out."""
        full, rest = divmod(self.samples, self.batch_size)
        return full + (not self.drop_last and rest >= self.devices)

    def epoch(self, epoch: int) -> list[list[tuple[Int[ndarray, " _"], float]]]:
        """Return, for each step, this device's parts and their shares of the step."""
        order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.samples)
        return [self._parts(order[i * self.batch_size : (i + 1) * self.batch_size]) for i in range(self.steps)]

    def _parts(self, chosen: Int[ndarray, " n"]) -> list[tuple[Int[ndarray, " _"], float]]:
        count = max(1, min(self.accumulate, len(chosen) // self.devices))  # the same on every device
        parts = np.array_split(chosen[self.rank :: self.devices], count)
        return [(part, len(part) / len(chosen)) for part in parts]


def training_steps(
    data: TrainingData, batching: Batching, epoch: int, start: int, workers: int, pin: bool
) -> Iterator[list[Part]]:
    """Read the steps of an epoch.

    Args:
        data: The samples.
        batching: How they are cut.
        epoch: From 0.
        start: The first step.
        workers: Processes that read ahead; 0: this one reads.
        pin: Whether batches come in memory from which a GPU copies fast.

    Yields:
        The parts of each step.
    """
    steps = batching.epoch(epoch)[start:]
    reader = _Reader(data, [part for step in steps for part in step], (batching.seed, _AUGMENTATION, epoch))
    parts = iter(_loader(reader, workers, pin))
    for step in steps:
        yield list(islice(parts, len(step)))


def evaluation_parts(data: TrainingData, batching: Batching, workers: int, pin: bool) -> Iterator[Part]:
    """Read all samples of a device once, in order and without augmentation.

    Args:
        data: The samples.
        batching: How they are cut.
        workers: See `training_steps`.
        pin: See `training_steps`.
    """
    size = max(1, batching.batch_size // batching.devices // batching.accumulate)
    mine = np.arange(batching.samples)[batching.rank :: batching.devices]
    parts = [(mine[i : i + size], size / batching.samples) for i in range(0, len(mine), size)]
    return iter(_loader(_Reader(data, parts, None), workers, pin))


class _Reader(Dataset[Part]):
    def __init__(
        self, data: TrainingData, parts: list[tuple[Int[ndarray, " _"], float]], stream: tuple[int, ...] | None
    ) -> None:
        self.data, self.parts, self.stream = data, parts, stream

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> Part:
        chosen, share = self.parts[number]
        indices = [int(i) for i in chosen]
        return Part(indices, share, self.data.batch(indices, self._draw if self.stream else None))

    def _draw(self, index: int) -> np.random.Generator:
        return np.random.default_rng([*(self.stream or ()), index])


def _loader(reader: _Reader, workers: int, pin: bool) -> DataLoader[Any]:
    return DataLoader(reader, batch_size=None, shuffle=False, num_workers=workers, collate_fn=_as_it_is, pin_memory=pin)


def _as_it_is(part: Any) -> Any:
    return part


def check_sizes(samples: int, batch_size: int, batching: Batching, what: str = "training data") -> None:
    """Check that there is at least one step.

    Args:
        samples: In the data.
        batch_size: Asked for.
        batching: How they are cut.
        what: The data, for people.

    Raises:
        DataError: There is none.
    """
    if samples == 0:
        raise DataError(f"the {what} have no samples; check the folder and its split")
    if batching.steps == 0:
        raise DataError(
            f"{samples} samples make no batch of {batch_size} on {batching.devices} devices; use a smaller batch"
        )
