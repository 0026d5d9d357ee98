"""Train a reference model of the scenes with the trainer that everything here has."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from seewhy.core.tensor_files import save_tensors
from seewhy.errors import OptionError, UnknownNameError, WeightsError
from seewhy.training.batches import PoolData, normalize_images, window_at
from seewhy.training.distil import DistilledStudent
from seewhy.training.pool import Pool, scene_pool
from seewhy.training.recipes import RECIPES, Recipe
from seewhy.training.run import CHECKPOINT
from seewhy.training.schedules import Cosine
from seewhy.training.students import Student
from seewhy.training.task import Task
from seewhy.training.trainer import fit
from seewhy.training.weights import describe_machine, save_half

PRECISIONS = {"bf16": "bf16", "fp32": "32"}
STUDENT = "student.safetensors"
"""The trained weights in full precision, with the recipe, the time and the machine in the header."""


def train(
    name: str,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    devices: int = 1,
    precision: str = "bf16",
    threads: int | None = None,
    workers: int = 2,
    every: int = 250,
    pool_dir: str | Path | None = None,
    quiet: bool = False,
    **changes: Any,
) -> nn.Module:
    """Train a reference model.

    Args:
        name: A recipe of `RECIPES`.
        out: Folder that gets the checkpoint (every `every` steps), the log, `student.safetensors` and
            `model.safetensors` (half precision).
        resume: Whether to continue the run in `out`.
        device: Device of torch.
        devices: How many GPUs, or processes of the CPU, take part. On a busy CPU two processes of one thread are
            several times faster than one of two, whose threads wait for each other at every layer.
        precision: "bf16" (autocast) or "fp32".
        threads: CPU threads of torch; by default as they are.
        workers: Processes that draw the training set.
        every: Steps between checkpoints.
        pool_dir: Where the training set is kept (default: `out/pool`).
        quiet: Whether to show no progress.
        **changes: Fields of the recipe to change, such as `steps`.

    Returns:
        The trained model, in eval mode.

    Raises:
        UnknownNameError: When there is no recipe, or no field of a recipe, of that name.
        OptionError: When `precision` is unknown, or `out` holds a run and `resume` is false.
        WeightsError: When there is nothing to resume, or the checkpoint belongs to another recipe.
    """
    recipe = _recipe(name, changes)
    if precision not in PRECISIONS:
        raise OptionError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    folder = Path(out)
    if resume and not (folder / CHECKPOINT).exists():
        raise WeightsError(f"{folder / CHECKPOINT} does not exist; start without --resume")
    with _threads(threads):
        pool = _pool(recipe, Path(pool_dir or folder / "pool"), workers, quiet)
        task = SceneTask(recipe)
        per_epoch = max(1, len(pool) // recipe.batch)
        history = fit(
            task,
            PoolData(pool, recipe.augment),
            out=folder,
            epochs=math.ceil(recipe.steps / per_epoch),
            max_steps=recipe.steps,
            batch_size=min(recipe.batch, len(pool)),
            optimizer=decaying_adamw,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            schedule=Cosine(recipe.warmup),
            clip_norm=1.0,
            precision=PRECISIONS[precision],
            device=device,
            devices=devices,
            patience=None,
            seed=recipe.seed,
            drop_last=True,
            every=every,
            resume=resume,
            progress=not quiet,
        )
        if history.leads:
            where = describe_machine(torch.device(device), precision, int(os.environ.get("WORLD_SIZE", 1)))
            info = {"recipe": dataclasses.asdict(recipe), "seconds": history.seconds, "machine": where}
            info |= {"step": history.steps, "processes": int(os.environ.get("WORLD_SIZE", 1))}
            save_tensors(folder / STUDENT, task.student.model.state_dict(), info)
            save_half(task.student.model, folder / "model.safetensors")
    return task.student.model.eval()


def build_student(recipe: Recipe) -> Student:
    """Return what the recipe trains: the model alone, or the model with its teacher."""
    return Student(recipe) if recipe.teacher is None else DistilledStudent(recipe)


class SceneTask(Task):
    """A reference model that learns by its recipe; the first weights are a function of the recipe's seed.

    Args:
        recipe: Everything that changes the result.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.step = recipe, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.student = build_student(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.module = self.student

    def start_step(self, step: int) -> None:
        """Note the step, which tells the window."""
        self.step = step

    def loss(self, batch: Mapping[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Return the student's loss."""
        x = normalize_images(batch["images"])
        patches = window_at(self.recipe, self.step, side=x.shape[-1] // 8)
        window = None if patches is None else torch.from_numpy(patches).to(x.device)
        with _attention(x.device):
            return {"loss": self.student.loss(x, batch["targets"], window)}

    def describe(self) -> dict[str, Any]:
        """Return the recipe."""
        return {"recipe": dataclasses.asdict(self.recipe)}


def decaying_adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return AdamW whose weight decay leaves out biases and norms."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))


def _attention(device: torch.device) -> AbstractContextManager[object]:
    """Choose a kernel: on the CPU the backward pass of plain attention is a third faster (145 tokens)."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _pool(recipe: Recipe, folder: Path, workers: int, quiet: bool) -> Pool:
    """Draw the training set, or read it; of several processes the first one draws."""

    def draw(tick: Any = lambda done: None) -> Pool:
        return scene_pool(folder, recipe.split, recipe.images, recipe.seed, workers=workers, tick=tick)

    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) > 0:
        while not any(folder.glob(f"{recipe.split}-{recipe.seed}-*-{recipe.images}-*.targets.npy")):
            time.sleep(0.2)
        return draw()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=quiet) as bar:
        drawing = bar.add_task("drawing", total=recipe.images)
        return draw(lambda done: bar.update(drawing, completed=done))


def _recipe(name: str, changes: dict[str, Any]) -> Recipe:
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    names = [f.name for f in dataclasses.fields(Recipe)]
    for key in changes:
        if key not in names:
            raise UnknownNameError("recipe field", key, names)
    return dataclasses.replace(RECIPES[name], **changes)


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
