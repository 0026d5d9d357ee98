"""The state of a run, and what changes it: steps, epochs, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seewhy.core.progress import bars
from seewhy.core.tensor_files import check_state, read_tensors, save_tensors
from seewhy.errors import NonFiniteError, UnknownNameError, WeightsError
from seewhy.training.checkpoint import pack_optimizer, unpack_optimizer
from seewhy.training.history import LOG, Events, History, write_csv
from seewhy.training.loading import Batching, Part, evaluation_parts, training_steps
from seewhy.training.schedules import Moment, Schedule
from seewhy.training.task import Task, TrainingData

CHECKPOINT = "checkpoint.safetensors"
_STEP, _VALIDATION = 3, 4  # streams of random numbers of a run, beside those of `loading`
_SHOWN = 8  # samples that a message names


@dataclass
class _Place:
    epoch: int = 0
    step: int = 0  # of this epoch
    waited: int = 0  # epochs without gain
    finished: bool = False


class _Untouched:
    """A batch that passes through wrappers untouched: Fabric would round targets to half precision."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class _Loss(nn.Module):
    """The loss as a forward pass, which is what wrappers for several devices understand."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.module = task.module
        self.task = task

    def forward(self, held: _Untouched, epoch: int) -> dict[str, Tensor]:
        return self.task.loss(held.batch, epoch)


class Run:
    """The state of a run, and what changes it."""

    monitor, maximize = "loss", False
    patience: int | None = None
    clip_norm: float | None = None
    every: int | None = None
    workers = 0

    def __init__(
        self,
        task: Task,
        folder: Path,
        settings: dict[str, Any],
        fabric: Any,
        scaler: Any,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        batching: Batching,
    ) -> None:
        self.task, self.folder, self.settings, self.fabric, self.scaler = task, folder, settings, fabric, scaler
        self.optimizer, self.schedule, self.batching = optimizer, schedule, batching
        self.trained = [p for group in optimizer.param_groups for p in group["params"]]
        self.model, self.stepper = fabric.setup(_Loss(task), optimizer)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.history, self.place = History(leads=fabric.global_rank == 0), _Place()
        self.best: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.unchecked: list[tuple[Tensor, list[int]]] = []

    @property
    def pins(self) -> bool:
        """Whether batches are read into memory from which a GPU copies fast."""
        return bool(self.fabric.device.type == "cuda")

    # ── the run ───────────────────────────────────────────────────────────────────────────────────────────────────────
    def go(
        self, data: TrainingData, validation: TrainingData | None, epochs: int, max_steps: int | None, shows: bool
    ) -> None:
        """Take the steps that are left."""
        steps = min(epochs * self.batching.steps, max_steps or epochs * self.batching.steps)
        events = Events(self.folder / "tensorboard", self.place.epoch) if self.history.leads else None
        with bars(shows) as bar:
            shown = bar.add_task("training", total=steps, completed=self.history.steps)
            while not self.place.finished and self.place.epoch < epochs and self.history.steps < steps:
                self._epoch(data, steps, lambda text: bar.update(shown, completed=self.history.steps, description=text))
                self._end_of_epoch(validation, steps, events)
        if events is not None:
            events.close()
        if self.best:
            self.task.load_state(self.best)
        self.optimizer.zero_grad(set_to_none=True)

    def _epoch(self, data: TrainingData, steps: int, show: Callable[[str], None]) -> None:
        epoch = self.place.epoch
        self.task.module.train()
        self.task.start_epoch(epoch)
        shown = 0.0
        reader = training_steps(data, self.batching, epoch, self.place.step, self.workers, self.pins)
        for parts in reader:
            started = time.monotonic()
            self._step(data, parts, steps)
            self.place.step += 1
            self.history.steps += 1
            self.history.seconds += time.monotonic() - started
            if self.every and self.history.steps % self.every == 0:
                self._check_losses(data)
                self.save()
            if time.monotonic() - shown > 1:  # reading the loss waits for the device
                shown = time.monotonic()
                show(f"epoch {epoch + 1}, loss {self._means().get('loss', math.nan):.4f}")
            if self.history.steps >= steps:
                break
        self._check_losses(data)

    def _step(self, data: TrainingData, parts: list[Part], steps: int) -> None:
        factor = self.schedule(Moment(self.history.steps, steps, self.batching.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        _seed(self.batching.seed, _STEP, self.place.epoch, self.place.step, self.batching.rank)
        self.task.start_step(self.history.steps)
        self.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with self.fabric.no_backward_sync(self.model, enabled=not last and self.batching.devices > 1):
                losses = self.model(_Untouched(self.fabric.to_device(part.batch)), self.place.epoch)
                self.unchecked.append((losses["loss"].detach(), part.indices))
                if self.fabric.device.type != "cuda":
                    self._check_losses(data)
                self.fabric.backward(losses["loss"] * part.share * self.batching.devices)
            for name, value in {**losses, "samples": torch.ones_like(losses["loss"])}.items():
                gain = value.detach().float() * part.share
                self.sums[name] = self.sums[name] + gain if name in self.sums else gain
        self._check_losses(data, leave=len(parts))
        if self.clip_norm is not None:
            kept = [p for p in self.trained if p.grad is not None]
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(kept, self.clip_norm)
        self.stepper.step()

    def _check_losses(self, data: TrainingData, leave: int = 0) -> None:
        """Stop at a loss that is no number; on a GPU those of the last step may wait, so that it need not."""
        while len(self.unchecked) > leave:
            loss, indices = self.unchecked.pop(0)
            if math.isfinite(float(loss)):
                continue
            names = [data.name(i) for i in indices]
            more = ""
            if len(names) > _SHOWN:
                (self.folder / "nonfinite.json").write_text(json.dumps(names, ensure_ascii=False), "utf-8")
                more = f" and {len(names) - _SHOWN} more, all in {self.folder / 'nonfinite.json'}"
            kept = "; the last checkpoint is kept" if (self.folder / CHECKPOINT).exists() else ""
            raise NonFiniteError(
                f"the loss is {float(loss)} in epoch {self.place.epoch}, step {self.place.step}, with the samples "
                f"{', '.join(names[:_SHOWN])}{more}{kept}; look at these samples, or lower the learning rate"
            )

    def _means(self) -> dict[str, float]:
        """Return the means of what was logged since the epoch began, over all devices."""
        sums = {name: float(value) for name, value in self.sums.items()}
        count = sums.pop("samples", 0.0)
        return {name: value / count for name, value in sums.items()} if count else {}

    def _end_of_epoch(self, validation: TrainingData | None, steps: int, events: Events | None) -> None:
        self.sums = {name: self.fabric.all_reduce(value, reduce_op="sum") for name, value in self.sums.items()}
        line: dict[str, Any] = {"epoch": self.place.epoch, "step": self.history.steps}
        line |= {"lr": self.optimizer.param_groups[0]["lr"], **self._means()}
        if validation is not None:
            started = time.monotonic()
            figures = self.validate(validation)
            line |= {f"val_{name}": value for name, value in figures.items()}
            self._compare(figures)
            self.history.seconds += time.monotonic() - started
        line["seconds"] = round(self.history.seconds, 3)
        self.history.epochs.append(line)
        self.sums = {}
        self.place.epoch, self.place.step = self.place.epoch + 1, 0
        if self.patience is not None and self.place.waited >= self.patience:
            self.place.finished, self.history.stopped = True, "no gain"
        self.save()
        if events is not None:
            write_csv(self.folder / LOG, self.history)
            events.write(line["epoch"], line)

    def _compare(self, figures: Mapping[str, float]) -> None:
        if self.monitor not in figures:
            raise UnknownNameError("figure to monitor", self.monitor, figures)
        value = figures[self.monitor]
        before = None if self.history.best is None else self.history.epochs[self.history.best][f"val_{self.monitor}"]
        gained = before is None or math.isnan(before) or (value > before if self.maximize else value < before)
        if gained:
            self.history.best, self.place.waited = self.place.epoch, 0
            self.best = {name: v.detach().to("cpu", copy=True) for name, v in self.task.state().items()}
        else:
            self.place.waited += 1

    def validate(self, data: TrainingData) -> dict[str, float]:
        """Measure the task as it is."""
        batching = Batching(
            len(data),
            self.batching.batch_size,
            self.batching.seed,
            self.batching.accumulate,
            self.batching.devices,
            self.batching.rank,
        )
        _seed(self.batching.seed, _VALIDATION, self.place.epoch, 0, self.batching.rank)
        self.task.module.eval()
        found: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad(), self.fabric.autocast():
            for part in evaluation_parts(data, batching, self.workers, self.pins):
                values = self.task.evaluate(self.fabric.to_device(part.batch))
                rows = {name: value.detach().cpu() for name, value in values.items()}
                found |= {index: {k: v[i] for k, v in rows.items()} for i, index in enumerate(part.indices)}
        if self.batching.devices > 1:
            shards: list[Any] = [None] * self.batching.devices
            torch.distributed.all_gather_object(shards, found)
            found = {index: row for shard in shards for index, row in shard.items()}
        names = found[0].keys()
        return self.task.metrics({name: torch.stack([found[i][name] for i in range(len(data))]) for name in names})

    # ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────────────
    def save(self) -> None:
        """Write the checkpoint; a kill or a full disk leaves the old one or the new one."""
        if not self.history.leads:
            return
        optimizer, info = pack_optimizer(self.optimizer)
        tensors = {
            f"{kind}|{name}": value
            for kind, values in (
                ("task", self.task.state()),
                ("best", self.best),
                ("optimizer", optimizer),
                ("sums", self.sums),
            )
            for name, value in values.items()
        }
        save_tensors(
            self.folder / CHECKPOINT,
            tensors,
            {
                "settings": self.settings,
                "task": self.task.describe(),
                "place": vars(self.place),
                "history": vars(self.history),
                "optimizer": info,
                "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            },
        )

    def restore(self) -> None:
        """Continue from the checkpoint in the folder."""
        path = self.folder / CHECKPOINT
        tensors, info = read_tensors(path)
        if "place" not in info:
            raise WeightsError(f"{path} is no checkpoint of this trainer; choose another folder")
        _same("task", json.loads(json.dumps(self.task.describe())), info["task"], path)
        kinds: dict[str, dict[str, Tensor]] = {"task": {}, "best": {}, "optimizer": {}, "sums": {}}
        for name, value in tensors.items():
            kind, _, key = name.partition("|")
            kinds[kind][key] = value
        check_state(kinds["task"], self.task.state(), path)
        _same("options", self.settings, info["settings"], path)
        self.task.load_state(kinds["task"])
        unpack_optimizer(self.optimizer, kinds["optimizer"], info["optimizer"])
        if self.scaler is not None and info["scaler"]:
            self.scaler.load_state_dict(info["scaler"])
        self.best = kinds["best"]
        self.sums = self.fabric.to_device(kinds["sums"])
        if not self.history.leads:
            self.sums = {name: torch.zeros_like(value) for name, value in self.sums.items()}
        self.place = _Place(**info["place"])
        self.history = History(**{**info["history"], "leads": self.history.leads})


def _same(what: str, mine: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    for key in {**mine, **found}:
        if mine.get(key) != found.get(key):
            raise WeightsError(
                f"{path} was made with another {key} ({_short(found.get(key))}, now {_short(mine.get(key))}); "
                f"pass the same {what}, or choose another folder"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _seed(*numbers: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1)))
