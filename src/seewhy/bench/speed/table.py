"""The table of a machine: every task of some models, with what it cost, as Markdown and as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from seewhy.bench.manifest import describe_hardware, installed_versions
from seewhy.bench.speed.clock import timed
from seewhy.bench.speed.memory import peak_bytes
from seewhy.bench.speed.peers import PEERS, peer_tasks
from seewhy.bench.speed.tasks import around_tasks, method_tasks, metric_tasks, several_targets
from seewhy.core.progress import Progress, no_progress
from seewhy.errors import OptionError
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model

MODELS = ("scenes_vit", "scenes_cnn")
"""What is measured if nothing else is named: they come with the package."""


@dataclass(frozen=True)
class Row:
    """What one task cost.

    Attributes:
        model: Name of the model.
        batch: Images in the batch.
        task: Name of the task.
        library: Whose it is.
        ratio: Median of the ratio to one forward of the model on the batch, for each pass that the task needs.
        low: Lower quartile.
        high: Upper quartile.
        repeats: How often it was timed.
        seconds: Median time, of a CPU processor time.
        maps_per_second: Maps made in a second.
        megabytes: Peak of the memory that it took in addition.
        forward_seconds: Median time of one forward of the batch.
        budget: What the ratio should stay within; None: not set.
    """

    model: str
    batch: int
    task: str
    library: str
    ratio: float
    low: float
    high: float
    repeats: int
    seconds: float
    maps_per_second: float
    megabytes: float
    forward_seconds: float
    budget: float | None


def measure(
    names: Sequence[str] = MODELS,
    batches: Sequence[int] = (1,),
    *,
    only: Sequence[str] = (),
    repeats: int = 5,
    threads: int = 1,
    peers: bool = True,
    device: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Measure tasks of models with random weights, against one forward of the same model and batch.

    Args:
        names: Models, as `load_model` knows them.
        batches: Images in a batch; tasks of single images run with the first of them.
        only: Words of which a task's name must hold one; empty: all tasks.
        repeats: How often each task is timed, each time between two forwards.
        threads: Threads of torch.
        peers: Whether other libraries that are installed are timed, too.
        device: As for `load_model`.
        progress: Shows how far it is.

    Returns:
        `rows` (see `Row`), `machine` and `versions`.

    Raises:
        OptionError: A number is too small, or no task has such a name.
        SeewhyError: A model cannot be opened.
    """
    if min((*batches, repeats, threads), default=0) < 1:
        raise OptionError("batches, repeats and threads must be 1 or more")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows: list[Row] = []
    device_of_last = torch.device("cpu")
    try:
        for name in names:
            model = load_model(name, pretrained=name.startswith("scenes"), device=device)
            device_of_last = model.device
            for batch in batches:
                rows += _rows(name, model, batch, batch == batches[0], only, repeats, peers, progress)
        hardware = describe_hardware(device_of_last)
    finally:
        torch.set_num_threads(before)
    if not rows:
        raise OptionError(f"no task is called {' or '.join(only)}; leave --only out to see all")
    return {"machine": hardware, "versions": _versions(), "rows": [asdict(row) for row in rows]}


def _rows(
    name: str,
    model: VisionModel,
    batch: int,
    with_around: bool,
    only: Sequence[str],
    repeats: int,
    peers: bool,
    progress: Progress,
) -> list[Row]:
    size = getattr(model.preprocess, "size", None) or (224, 224)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, model.channels or 3, *size, generator=generator).to(model.device, model.dtype)
    tasks = [*method_tasks(model, x), *several_targets(model, x)]
    tasks += [*around_tasks(model, size), *metric_tasks(x)] if with_around else []
    tasks += peer_tasks(model, x) if peers else []
    tasks = [task for task in tasks if not only or any(word in task.name for word in only)]

    def forward() -> object:
        with torch.no_grad():
            return model.module(x, **model.structure.call)

    rows: list[Row] = []
    groups = [[task for task in tasks if task.name == name] for name in dict.fromkeys(task.name for task in tasks)]
    for group in progress(groups, len(groups), f"{name}, batch {batch}"):
        runs: dict[str, Callable[[], object]] = {task.package: task.run for task in group}
        timings = timed(runs, forward, model.device, repeats)
        for task in group:
            timing = timings[task.package]
            rows.append(
                Row(
                    name,
                    batch,
                    task.name,
                    task.package,
                    timing.ratio / task.passes,
                    timing.low / task.passes,
                    timing.high / task.passes,
                    timing.repeats,
                    timing.seconds,
                    task.maps / timing.seconds,
                    peak_bytes(task.run, model.device) / 1e6,
                    timing.seconds / timing.ratio,
                    task.budget,
                )
            )
    return rows


def _versions() -> dict[str, str]:
    versions = installed_versions()
    for package in PEERS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def as_markdown(measured: dict[str, Any]) -> str:
    """Return the page: what was measured with, and a table for each model and batch."""
    machine, versions = measured["machine"], measured["versions"]
    lines = [
        "# What maps cost",
        "",
        "Made by `seewhy bench speed`. A ratio is the time of a task over that of one forward of the same model and",
        "batch, just before and after it (median and quartiles; of methods that run the model often, for each run).",
        "Memory is the peak of what lives in addition. The weights are random.",
        "",
        f"{machine['machine']}, {machine['system']}, device {machine['gpu'] or machine['device']}, "
        f"{machine['threads']} of {machine['cpus']} threads, "
        f"{measured['rows'][0]['repeats']} repeats; " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())),
    ]
    keys = dict.fromkeys((row["model"], row["batch"]) for row in measured["rows"])
    for model, batch in keys:
        rows = [row for row in measured["rows"] if (row["model"], row["batch"]) == (model, batch)]
        forward = min(row["forward_seconds"] for row in rows)
        lines += ["", f"## {model}, batch {batch}: one forward {forward * 1e3:.0f} ms", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[dict[str, Any]]) -> list[str]:
    lines = ["| task | library | ratio | quartiles | budget | maps/s | MB |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        budget = row["budget"]
        over = " **over**" if budget and row["ratio"] > budget else ""
        lines.append(
            f"| {row['task']} | {row['library']} | {row['ratio']:.2f}{over} | {row['low']:.2f} – {row['high']:.2f} | "
            f"{'' if budget is None else f'{budget:.3g}'} | {row['maps_per_second']:.3g} | {row['megabytes']:.0f} |"
        )
    return lines
