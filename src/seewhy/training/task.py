"""What is trained, and on what: the two interfaces that the trainer knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from seewhy.errors import OptionError

Batch: TypeAlias = Any
"""What `TrainingData.batch` gives: a tensor, or a dict, list or tuple of tensors, samples along the first axis."""

Draw: TypeAlias = Callable[[int], np.random.Generator]
"""From the number of a sample to the generator of its augmentation, a function of (seed, epoch, sample) alone."""


class TrainingData(Protocol):
    """Samples by number; whatever is random in them comes from `draw`, or a run could not be resumed exactly."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batch(self, indices: Sequence[int], draw: Draw | None) -> Batch:
        """Return the samples of these numbers as one batch.

        Args:
            indices: Numbers of samples.
            draw: `draw(index)` is the generator for the augmentation of a sample; None: no augmentation (evaluation).
        """
        ...

    def name(self, index: int) -> str:
        """Return what people call a sample: its id in the dataset, its file."""
        ...


class SampleData:
    """Training data of which a subclass reads one sample at a time; a batch stacks them, key by key."""

    def __len__(self) -> int:
        raise NotImplementedError

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        """Return a sample.

        Args:
            index: Its number.
            rng: For its augmentation; None: no augmentation.
        """
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return what people call a sample."""
        return str(index)

    def batch(self, indices: Sequence[int], draw: Draw | None) -> dict[str, Tensor]:
        """Return the samples, stacked."""
        samples = [self.sample(i, draw(i) if draw else None) for i in indices]
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


class Task(Protocol):
    """What is trained; subclass it (all but `module` and `loss` have defaults).

    Attributes:
        module: Its parameters with `requires_grad` when `fit` starts are trained.
    """

    module: nn.Module

    def loss(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Return `"loss"`, the mean over the samples of the batch, and scalars to log (their means per epoch).

        It runs in training mode with the trainer's precision (autocast), and may use torch's random numbers.

        Args:
            batch: On the device of the module.
            epoch: From 0.
        """
        ...

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return values of each sample, the samples along the first axis: its loss, prediction, target.

        The trainer puts those of all batches together, in the order of the data, for `metrics`. Runs in eval mode
        without gradients.
        """
        name = type(self).__name__
        raise OptionError(f"{name} has no evaluate(); train it without validation data")

    def metrics(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the figures of an evaluation; by default the means.

        Args:
            values: What `evaluate` returned for all samples, on the CPU.
        """
        return {name: float(value.double().mean()) for name, value in values.items()}

    def start_epoch(self, epoch: int) -> None:
        """Prepare an epoch, after `module.train()`: freeze parts, set modes. A function of `epoch` alone."""
        return

    def start_step(self, step: int) -> None:
        """Prepare a step, counted from 0 over the whole run. A function of `step` alone."""
        return

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of the module: by default its state dict."""
        return dict(self.module.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned; names and shapes are checked already."""
        self.module.load_state_dict(dict(state))

    def describe(self) -> dict[str, Any]:
        """Return, for JSON, what a checkpoint must have in common with this task: architecture, classes, backbone."""
        return {}
