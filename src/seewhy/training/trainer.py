"""The one trainer: Lightning Fabric moves, scales and averages; order, checkpoints and early stopping are here.

Everything random is a function of (seed, epoch, step, sample), so the only state is the weights, the optimizer and the
place in the run: a run that was killed in the middle of an epoch and resumed ends in the same bits as one that was not
(on one CPU, with one number of threads; on a GPU as far as its kernels repeat themselves).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from seewhy.errors import OptionError, SeewhyError, UnknownNameError
from seewhy.training.devices import PRECISIONS, make_fabric
from seewhy.training.history import History
from seewhy.training.loading import Batching, check_sizes
from seewhy.training.run import CHECKPOINT, Run
from seewhy.training.schedules import Constant, Schedule
from seewhy.training.task import Task, TrainingData

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
MakeOptimizer: TypeAlias = Callable[[nn.Module, float, float], torch.optim.Optimizer]
"""From the module, the learning rate and the weight decay to its optimizer."""


def fit(
    task: Task,
    data: TrainingData,
    *,
    out: str | Path,
    epochs: int,
    batch_size: int,
    validation: TrainingData | None = None,
    optimizer: str | MakeOptimizer = "adam",
    lr: float = 3e-4,
    weight_decay: float = 0.0,
    schedule: Schedule = Constant(),
    clip_norm: float | None = None,
    accumulate: int = 1,
    precision: str = "32",
    device: torch.device | str | None = None,
    devices: int = 1,
    monitor: str = "loss",
    maximize: bool = False,
    patience: int | None = 5,
    seed: int = 0,
    max_steps: int | None = None,
    drop_last: bool = False,
    every: int | None = None,
    resume: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> History:
    """Train the parameters of a task's module that require gradients.

    With validation data the task gets the weights of its best epoch at the end, else the last ones.

    Args:
        task: What is trained; see `Task`. Its module is left on the device where it was, in the mode that it had.
        data: What it learns from.
        out: Folder that gets `checkpoint.safetensors`, `log.csv` and, where TensorBoard is installed, `tensorboard/`.
        epochs: How often all samples are seen.
        batch_size: Samples per step of the optimizer, of all devices and parts together.
        validation: What it is measured on after each epoch.
        optimizer: "adam", "adamw", "sgd", or a function of (module, lr, weight_decay).
        lr: Learning rate; a schedule's factor applies to the rate of each parameter group.
        weight_decay: Of the optimizer.
        schedule: Of the learning rate; see `seewhy.training.schedules`.
        clip_norm: The largest norm of the gradient; longer ones are shortened.
        accumulate: Into how many parts a device cuts its share of a batch; saves memory, changes no result.
        precision: "32", "bf16" or "16" (autocast, the latter with a scaled loss).
        device: As torch names it; None: CUDA where there is one, else the CPU.
        devices: How many GPUs (or processes of the CPU) take part. Fabric starts the script or command once for each;
            under `torchrun` its processes are taken.
        monitor: The figure of `task.metrics` by which epochs are compared.
        maximize: Whether more of it is better.
        patience: Epochs without gain after which the run stops; None: never.
        seed: Of everything random.
        max_steps: The run ends here if that is before `epochs` end.
        drop_last: Whether an epoch's last samples that make no full batch are left out.
        every: Steps between checkpoints; there is one after each epoch in any case.
        resume: Whether to continue from the checkpoint in `out`; without one the run begins.
        workers: Processes that read samples ahead.
        progress: Whether to show a bar (in a terminal only).

    Returns:
        The figures of each epoch.

    Raises:
        OptionError: An option has a value that it does not accept, or `out` holds a run and `resume` is false.
        DataError: There are no samples.
        WeightsError: The checkpoint was made with other options, or belongs to another architecture or backbone.
        NonFiniteError: The loss is not a number; the message names samples, and the last checkpoint is kept.
        SeewhyError: The disk is full; the last checkpoint is kept.
        MissingExtraError: Lightning Fabric is not installed.
    """
    folder = Path(out).expanduser()
    _check(epochs, batch_size, accumulate, precision, devices, patience, every, max_steps)
    if (folder / CHECKPOINT).exists() and not resume:
        raise OptionError(f"{folder} already holds a run; continue it with resume (--resume), or choose another folder")
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": _named(optimizer),
        "lr": lr,
        "weight_decay": weight_decay,
        "schedule": _named(schedule),
        "clip_norm": clip_norm,
        "precision": precision,
        "monitor": [monitor, maximize],
        "patience": patience,
        "seed": seed,
        "max_steps": max_steps,
        "drop_last": drop_last,
        "samples": [len(data), len(validation) if validation is not None else 0],
    }
    fabric, scaler = make_fabric(precision, device, devices)
    fabric.launch()
    batching = Batching(len(data), batch_size, seed, accumulate, fabric.world_size, fabric.global_rank, drop_last)
    check_sizes(len(data), batch_size, batching)
    if validation is not None:
        check_sizes(len(validation), 1, Batching(len(validation), 1, seed), "validation data")
    made = _made(optimizer, task.module, lr, weight_decay)
    _make_folder(folder)
    if fabric.global_rank == 0:
        for draft in folder.glob(f".{Path(CHECKPOINT).stem}.*.tmp*"):  # of a run that was killed while writing
            draft.unlink(missing_ok=True)
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with _left_as_it_came(task.module), torch.random.fork_rng(cuda):
        run = Run(task, folder, json.loads(json.dumps(settings)), fabric, scaler, made, schedule, batching)
        run.monitor, run.maximize, run.patience, run.clip_norm = monitor, maximize, patience, clip_norm
        run.workers, run.every = workers, every
        if resume and (folder / CHECKPOINT).exists():
            run.restore()
        fabric.barrier()
        run.go(data, validation, epochs, max_steps, progress and run.history.leads)
    return run.history


def _check(
    epochs: int,
    batch_size: int,
    accumulate: int,
    precision: str,
    devices: int,
    patience: int | None,
    every: int | None,
    max_steps: int | None,
) -> None:
    counts = {"epochs": epochs, "batch_size": batch_size, "accumulate": accumulate, "devices": devices}
    counts |= {k: v for k, v in {"patience": patience, "every": every, "max_steps": max_steps}.items() if v is not None}
    for name, value in counts.items():
        if value < 1:
            raise OptionError(f"{name}={value} must be at least 1")
    if precision not in PRECISIONS:
        raise OptionError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")


def _named(value: Any) -> str:
    """Return what tells two choices apart, in this process and in the next."""
    if isinstance(value, str):
        return value
    return str(getattr(value, "__qualname__", None) or repr(value))


def _made(optimizer: str | MakeOptimizer, module: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
        raise UnknownNameError("optimizer", optimizer, OPTIMIZERS)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise OptionError("no parameter requires gradients, so nothing would be trained; unfreeze some")
    if isinstance(optimizer, str):
        return OPTIMIZERS[optimizer](parameters, lr=lr, weight_decay=weight_decay)
    return optimizer(module, lr, weight_decay)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SeewhyError(f"cannot write to {folder} ({error.strerror}); choose another folder") from error


@contextmanager
def _left_as_it_came(module: nn.Module) -> Iterator[None]:
    """Put the module back on its device and into its mode; parameters that were frozen meanwhile stay trainable."""
    place = next((p.device for p in module.parameters()), torch.device("cpu"))
    modes = {m: m.training for m in module.modules()}
    needs = {p: p.requires_grad for p in module.parameters()}
    try:
        yield
    finally:
        module.to(place)
        for part, mode in modes.items():
            part.training = mode
        for parameter, need in needs.items():
            parameter.requires_grad_(need)
            parameter.grad = None
