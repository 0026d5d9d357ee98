"""Train a reference model of the scenes, with exact resumption.

The order of the images, their augmentation and the learning rate are functions of (seed, step) alone, so the only
state is the model's, the optimizer's and the step: a run that was killed and resumed ends in the same bits as one
that was not (on one machine, with one number of threads).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from seewhy.core.io import atomic_file
from seewhy.errors import OptionError, UnknownNameError, WeightsError
from seewhy.training.batches import batch_at, normalize_images, rate_at, window_at
from seewhy.training.distil import DistilledStudent
from seewhy.training.pool import Pool, scene_pool
from seewhy.training.recipes import RECIPES, Recipe
from seewhy.training.students import Student
from seewhy.training.team import Team
from seewhy.training.weights import describe_machine, save_half

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def train(
    name: str,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    precision: str = "bf16",
    threads: int | None = None,
    workers: int = 2,
    every: int = 250,
    pool_dir: str | Path | None = None,
    stop_at: int | None = None,
    quiet: bool = False,
    **changes: Any,
) -> nn.Module:
    """Train a reference model.

    Args:
        name: A recipe of `RECIPES`.
        out: Folder that gets `checkpoint.pt` (every `every` steps), `log.jsonl` and `model.safetensors` (half).
        resume: Whether to continue from `out/checkpoint.pt`.
        device: Device of torch.
        precision: "bf16" (autocast) or "fp32".
        threads: CPU threads of torch; by default as they are.
        workers: Processes that draw the training set.
        every: Steps between checkpoints.
        pool_dir: Where the training set is kept (default: `out/pool`).
        stop_at: Leave after this step, as if killed.
        quiet: Whether to show no progress.
        **changes: Fields of the recipe to change, such as `steps`.

    Returns:
        The trained model, in eval mode.

    Raises:
        UnknownNameError: When there is no recipe, or no field of a recipe, of that name.
        OptionError: When `precision` is unknown, or `out` holds a run and `resume` is false.
        WeightsError: When the checkpoint belongs to another recipe.
    """
    recipe = _recipe(name, changes)
    if precision not in PRECISIONS:
        raise OptionError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    folder = Path(out)
    if (folder / "checkpoint.pt").exists() and not resume:
        raise OptionError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    team = Team(torch.device(device))
    with _threads(threads), _bar(quiet or not team.leads) as bar:
        drawing = bar.add_task("drawing", total=recipe.images)

        def pool_of_all() -> Pool:
            return scene_pool(
                Path(pool_dir or folder / "pool"),
                recipe.split,
                recipe.images,
                recipe.seed,
                workers=workers,
                tick=lambda done: bar.update(drawing, completed=done),
            )

        pool = _leader_first(team, pool_of_all)
        bar.update(drawing, completed=recipe.images)
        run = TrainingRun(recipe, folder, torch.device(device), PRECISIONS[precision], team)
        if resume:
            run.restore()
        learning = bar.add_task(f"training {name}", total=recipe.steps, completed=run.step)
        for loss in run.go(pool, min(recipe.steps, stop_at or recipe.steps), every):
            bar.update(learning, completed=run.step, description=f"training {name}, loss {loss:.4f}")
    team.wait()
    return run.student.model.eval()


def _leader_first(team: Team, draw: Callable[[], Pool]) -> Pool:
    if not team.leads:
        team.wait()
    pool = draw()
    if team.leads:
        team.wait()
    return pool


def build_student(recipe: Recipe) -> Student:
    """Return what the recipe trains: the model alone, or the model with its teacher."""
    return Student(recipe) if recipe.teacher is None else DistilledStudent(recipe)


class TrainingRun:
    """The state of a training run and the steps that change it.

    Attributes:
        recipe: Everything that changes the result.
        folder: Where checkpoints go.
        student: What is trained.
        step: Steps taken so far.
        seconds: Time that they took.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, device: torch.device, dtype: torch.dtype, team: Team | None = None
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.dtype = dtype
        self.team = team or Team(device)
        self.step, self.seconds = 0, 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.student = build_student(recipe).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.trainable = [p for p in self.student.parameters() if p.requires_grad]
        decay = [p for p in self.trainable if p.ndim > 1]
        rest = [p for p in self.trainable if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=recipe.lr,
            betas=(0.9, 0.98),
        )

    def go(self, pool: Pool, until: int, every: int) -> Iterator[float]:
        """Take the steps up to `until`, and leave a checkpoint at the end.

        Args:
            pool: The training set.
            until: Number of the last step.
            every: Steps between checkpoints.

        Yields:
            The mean loss now and then.
        """
        total, count = torch.zeros((), device=self.device), 0
        while self.step < until:
            started = time.monotonic()
            total += self._take(pool)
            count += 1
            self.seconds += time.monotonic() - started
            if self.step % 25 == 0 or self.step == until:  # reading the loss waits for the device
                loss = float(total) / count
                if self.team.leads:
                    self._log(loss)
                total, count = torch.zeros_like(total), 0
                if self.team.leads and (self.step % every == 0 or self.step == until):
                    self.save()
                yield loss

    def _take(self, pool: Pool) -> Float[Tensor, ""]:
        images, targets = batch_at(pool, self.recipe, self.step, self.team.share())
        x = normalize_images(torch.from_numpy(images).to(self.device, non_blocking=True))
        y = torch.from_numpy(targets).to(self.device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.recipe, self.step)
        self.student.train()
        patches = window_at(self.recipe, self.step, side=x.shape[-1] // 8)
        window = None if patches is None else torch.from_numpy(patches).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32), self._attention():
            loss = self.student.loss(x, y, window)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average([p.grad for p in self.trainable] + list(self.student.buffers()))
        nn.utils.clip_grad_norm_(self.trainable, 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _attention(self) -> AbstractContextManager[object]:
        """Choose a kernel: on the CPU the backward pass of plain attention is a third faster (145 tokens)."""
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    def save(self) -> None:
        """Write the checkpoint and the weights; a kill leaves the old ones or the new ones."""
        state = {
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "step": self.step,
            "seconds": self.seconds,
            "machine": describe_machine(self.device, str(self.dtype).removeprefix("torch."), self.team.size),
            "processes": self.team.size,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_file(self.folder / "checkpoint.pt") as draft:
            torch.save(state, draft)
        save_half(self.student.model, self.folder / "model.safetensors")

    def restore(self) -> None:
        """Continue from the checkpoint in the folder.

        Raises:
            WeightsError: When there is none, or it was made with another recipe.
        """
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            raise WeightsError(f"{path} does not exist; start without --resume")
        state = torch.load(path, map_location=self.device, weights_only=True)
        if json.loads(state["recipe"]) != json.loads(json.dumps(dataclasses.asdict(self.recipe))):
            raise WeightsError(f"{path} was made with another recipe; pass the same options, or choose another --out")
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _log(self, loss: float) -> None:
        line = {"step": self.step, "loss": loss, "lr": rate_at(self.recipe, self.step), "seconds": self.seconds}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


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


def _bar(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), disable=quiet
    )
