"""Train a reference model of the made world, with exact resumption.

The order of the pictures, their augmentation and the learning rate are functions of (seed, step) alone, so the only
state is the model's, the optimizer's and the step: a run that was killed and resumed ends in the same bits as one
that was not (on one machine, with one number of threads).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from seewhy.errors import OptionError, UnknownNameError, WeightsError
from seewhy.models.reference.scenes import MEAN, STD, build, load
from seewhy.training.pool import Pool, scene_pool
from seewhy.training.recipes import RECIPES, Recipe
from seewhy.training.team import Team

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Plain(nn.Module):
    """A model that learns from the labels."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model = build(recipe.architecture, **recipe.options)
        if recipe.start is not None:
            self.model.load_state_dict(_fitting(load(recipe.start)[0], self.model), strict=False)

    def loss(
        self, x: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b classes"], window: Int[Tensor, " m"] | None = None
    ) -> Float[Tensor, ""]:
        return F.binary_cross_entropy_with_logits(self.model(x).float(), target)


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
    """Train the model `name` of `RECIPES` in folder `out`.

    Args:
        out: gets `checkpoint.pt` (every `every` steps), `log.jsonl` and, at the end, `model.safetensors` (half).
        resume: go on from `out/checkpoint.pt`.
        precision: "bf16" (autocast) or "fp32".
        workers: processes that draw the training set, which is kept in `pool_dir` (default `out/pool`).
        stop_at: leave after this step, as if killed.
        changes: fields of the recipe to change, such as `steps`.

    Raises:
        UnknownNameError: no recipe, or no field of a recipe, of that name.
        OptionError: `precision` is unknown, or `out` holds a run and `resume` is false.
        WeightsError: the checkpoint is of another recipe.
    """
    recipe = _recipe(name, changes)
    if precision not in PRECISIONS:
        raise OptionError(f"precision {precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
    folder = Path(out)
    if (folder / "checkpoint.pt").exists() and not resume:
        raise OptionError(f"{folder} already holds a run; go on with --resume, or choose another --out")
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
        run = Run(recipe, folder, torch.device(device), PRECISIONS[precision], team)
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


def student_of(recipe: Recipe) -> Plain:
    from seewhy.training.distil import Student

    return Plain(recipe) if recipe.teacher is None else Student(recipe)


class Run:
    """The state of a training run and the steps that change it."""

    def __init__(
        self, recipe: Recipe, folder: Path, device: torch.device, dtype: torch.dtype, team: Team | None = None
    ) -> None:
        self.recipe, self.folder, self.device, self.dtype = recipe, folder, device, dtype
        self.team = team or Team(device)
        self.step, self.seconds = 0, 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.student = student_of(recipe).to(device, memory_format=torch.channels_last)
        self.trainable = [p for p in self.student.parameters() if p.requires_grad]
        decay = [p for p in self.trainable if p.ndim > 1]
        rest = [p for p in self.trainable if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=recipe.lr,
            betas=(0.9, 0.98),
        )

    def go(self, pool: Pool, until: int, every: int) -> Iterator[float]:
        """Take the steps up to `until`; gives the mean loss now and then, and leaves a checkpoint at the end."""
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
        x = prepare(torch.from_numpy(images).to(self.device, non_blocking=True))
        y = torch.from_numpy(targets).to(self.device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.recipe, self.step)
        self.student.train()
        window = window_at(self.recipe, self.step, side=x.shape[-1] // 8)
        window = None if window is None else torch.from_numpy(window).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32), self._attention():
            loss = self.student.loss(x, y, window)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average([p.grad for p in self.trainable] + list(self.student.buffers()))
        nn.utils.clip_grad_norm_(self.trainable, 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _attention(self) -> AbstractContextManager[None]:
        """On the CPU the plain attention's backward pass is a third faster than the fused one's (145 tokens)."""
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()

    def save(self) -> None:
        """Write the checkpoint beside the old one, then put it in its place: a kill leaves one or the other."""
        from seewhy.training.export import machine, save_half

        state = {
            "recipe": json.dumps(dataclasses.asdict(self.recipe)),
            "step": self.step,
            "seconds": self.seconds,
            "machine": machine(self.device, str(self.dtype).removeprefix("torch."), self.team.size),
            "processes": self.team.size,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.folder / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.folder / "checkpoint.pt")
        save_half(self.student.model, self.folder / "model.safetensors")

    def restore(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            raise WeightsError(f"{path} does not exist; start without --resume")
        state = torch.load(path, map_location=self.device, weights_only=True)
        if json.loads(state["recipe"]) != json.loads(json.dumps(dataclasses.asdict(self.recipe))):
            raise WeightsError(f"{path} is of another recipe; give the same options, or choose another --out")
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _log(self, loss: float) -> None:
        line = {"step": self.step, "loss": loss, "lr": rate_at(self.recipe, self.step), "seconds": self.seconds}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def rate_at(recipe: Recipe, step: int) -> float:
    """The learning rate: a linear rise, then half a cosine down to zero."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def window_at(recipe: Recipe, step: int, side: int, width: int = 8) -> Int[ndarray, " m"] | None:
    """The patches of a random square window, or None for a step that looks at the whole picture."""
    if step >= recipe.window * recipe.steps or side <= width:
        return None
    top, left = np.random.default_rng([recipe.seed, 3, step]).integers(0, side - width + 1, 2)
    return np.arange(side * side).reshape(side, side)[top : top + width, left : left + width].ravel()


def batch_at(
    pool: Pool, recipe: Recipe, step: int, share: slice = slice(None)
) -> tuple[UInt8[ndarray, "b h w 3"], Float[ndarray, "b classes"]]:
    """The pictures and targets of a step: shuffled once per epoch, then augmented; `share` picks a part of them."""
    per_epoch = max(1, len(pool) // recipe.batch)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(len(pool))
    chosen = np.sort(order[place * recipe.batch : (place + 1) * recipe.batch])[share]
    images = np.array(pool.images[chosen])
    if recipe.augment:
        _augment(np.random.default_rng([recipe.seed, 2, step, share.start or 0]), images)
    return images, pool.targets[chosen]


def _augment(rng: np.random.Generator, images: UInt8[ndarray, "b h w 3"]) -> None:
    """Mirror half of the pictures, exchange color channels, and darken or brighten, in place."""
    for image, mirror in zip(images, rng.random(len(images)) < 0.5, strict=True):
        view = image[:, ::-1] if mirror else image
        gain = rng.uniform(0.7, 1.3)
        table = np.clip(np.arange(256) * gain, 0, 255).astype(np.uint8)
        image[:] = table[view[..., rng.permutation(3)]]


def prepare(images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Bytes to the models' input."""
    mean, std = (torch.tensor(v, device=images.device) for v in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _recipe(name: str, changes: dict[str, Any]) -> Recipe:
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    known = [f.name for f in dataclasses.fields(Recipe)]
    for key in changes:
        if key not in known:
            raise UnknownNameError("recipe field", key, known)
    return dataclasses.replace(RECIPES[name], **changes)


def _fitting(source: nn.Module, sink: nn.Module) -> dict[str, Tensor]:
    """The source's weights that the sink has a place for."""
    places = sink.state_dict()
    return {k: v for k, v in source.state_dict().items() if k in places and places[k].shape == v.shape}


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
