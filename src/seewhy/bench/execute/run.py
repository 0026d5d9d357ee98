"""Running a plan on this machine: from the first check to the last part, and on again after any interruption."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from seewhy import __version__
from seewhy.bench.execute.locks import claimed
from seewhy.bench.execute.worker import OnPart, parts_of, work
from seewhy.bench.plan import DIGEST, Plan
from seewhy.bench.reference_maps import BASELINES
from seewhy.bench.setup import Bench, Stage, Tool, Unit
from seewhy.bench.store import ROWS, SCHEMA, Store, part_name
from seewhy.errors import DataError, ModelError, OptionError
from seewhy.models.load import source_packages

PACKAGES = ("numpy", "pillow", "pyarrow")
"""Distributions whose versions a manifest holds beside those that models come from."""

POLL = 0.5
Engine = Callable[[Bench, Store, list[Unit], OnPart], None]


class Watcher:
    """Is told what a run does; this one does nothing with it."""

    def begin(self, bench: Bench, stages: list[Stage]) -> None:
        """All is checked, the first batch comes next."""

    def part(self, model: str, method: str, batch: int) -> None:
        """A method has done a batch."""


def run(
    plan: Plan | str | Path, folder: str | Path, watcher: Watcher | None = None, engine: Engine | None = None
) -> Store:
    """Run a plan into a new folder.

    Args:
        plan: a `Plan`, or the path of its TOML file.
        folder: must not hold anything yet.
        watcher: is told of each finished part.
        engine: what does the units; by default this process, one after the other.

    Raises:
        SeewhyError: the plan cannot work (before the first forward), or the folder cannot be written.
    """
    plan = plan if isinstance(plan, Plan) else Plan.read(plan)
    bench = Bench(plan)
    stages = bench.check()
    return _go(bench, stages, Store.create(folder, plan.text), watcher or Watcher(), engine or local)


def resume(
    folder: str | Path,
    plan: Plan | str | Path | None = None,
    watcher: Watcher | None = None,
    engine: Engine | None = None,
) -> Store:
    """Do what a run has left to do; finished parts are not touched.

    Raises:
        DataError: no run there. OptionError: the plan is not the one that the run was started with.
    """
    store = Store.open(folder)
    own = Plan.parse(store.plan_text)
    if plan is not None:
        given = plan if isinstance(plan, Plan) else Plan.read(plan)
        if given.digest != own.digest:
            raise OptionError(f"{store.folder} was run with another plan; leave the plan out, or start another run")
    begun = store.manifest.get("plan_digest", "")
    if begun.startswith(DIGEST) and begun != own.digest:
        raise OptionError(
            f"the plan in {store.folder} was changed since the run began; put it back, or start another run with it"
        )
    bench = Bench(own)
    return _go(bench, bench.check(), store, watcher or Watcher(), engine or local)


def _go(bench: Bench, stages: list[Stage], store: Store, watcher: Watcher, engine: Engine) -> Store:
    store.tidy()
    begun, now = store.manifest, _manifest(bench, stages)
    _check_same(begun, now)
    broken = store.drop_broken()
    store.write_manifest(_merged(begun, now, [f"broken, made again: {name}" for name in broken]))
    _write_skipped(store, stages)
    watcher.begin(bench, stages)
    parts = [
        name for stage in stages for batch in range(len(bench.batches)) for name in parts_of(stage, batch).values()
    ]
    stages.clear()  # their models are loaded again one after the other
    engine(bench, store, bench.units, watcher.part)
    missing = [name for name in parts if not store.has(name)]
    if missing:
        raise DataError(f"{len(missing)} parts were not written; go on with `seewhy bench resume {store.folder}`")
    store.write_manifest({**store.manifest, "finished": _now()})
    return store


def local(bench: Bench, store: Store, units: list[Unit], on_part: OnPart) -> None:
    """One unit after the other; those that another process works on are left to it, unless it dies."""
    left = units
    while left:
        passed = []
        for unit in left:
            with claimed(store.folder / "claims", part_name(unit.model, "", unit.batch)) as mine:
                if mine:
                    work(bench, store, unit, on_part)
                else:
                    passed.append(unit)
        if len(passed) == len(left):
            time.sleep(POLL)
        left = passed


# ── the manifest ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _manifest(bench: Bench, stages: list[Stage]) -> dict[str, Any]:
    plan, data = bench.plan, bench.data
    return {
        "schema": SCHEMA,
        "plan_digest": plan.digest,
        "seed": plan.seed,
        "started": _now(),
        "finished": None,
        "versions": _versions(),
        "hardware": _hardware(stages),
        "warnings": [],
        "protocol": asdict(plan.protocol),
        "published": plan.published,
        "data": {
            **_card(data.card),
            "split": data.split,
            "root": plan.data.get("root"),
            "length": len(data),
            "n": len(bench.numbers),
            "items": _items(bench),
            "options": bench.data_options,
        },
        "models": [_model(stage, plan) for stage in stages],
        "methods": _methods(stages),
        "metrics": [_metric(label, metric) for label, metric in bench.metrics.items()],
        "skipped": [
            {"model": stage.label, "method": label, "reason": why}
            for stage in stages
            for label, why in stage.skipped.items()
        ],
    }


def _check_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    """A run of two halves with other pictures or other weights would be no run.

    Raises:
        DataError, ModelError: they are not those that the run began with.
    """
    if old.get("data", {}).get("items", new["data"]["items"]) != new["data"]["items"]:
        raise DataError(
            f"{new['data']['title']} {new['data']['split']} holds other items than when the run began; "
            "put them back, or start another run"
        )
    begun = {model["name"]: model.get("weights") for model in old.get("models", ())}
    for model in new["models"]:
        if begun.get(model["name"]) not in (None, model["weights"]):
            raise ModelError(
                f"{model['source']} has other weights than when the run began; put them back, or start another run"
            )


def _merged(old: dict[str, Any], new: dict[str, Any], told: list[str]) -> dict[str, Any]:
    """What a resumed run keeps of its beginning: the start, and a warning where the versions changed."""
    if not old:
        return new
    changed = [
        f"{name} {old['versions'].get(name)} -> {now}"
        for name, now in new["versions"].items()
        if old["versions"].get(name) != now
    ]
    if changed:
        told = [*told, f"resumed with other versions: {', '.join(changed)}"]
    warnings = [*old["warnings"], *(f"{_now()}: {line}" for line in told)]
    return {
        **new,
        "started": old["started"],
        "versions": old["versions"],
        "hardware": old["hardware"],
        "warnings": warnings,
    }


def _model(stage: Stage, plan: Plan) -> dict[str, Any]:
    choice = next(choice for choice in plan.models if choice.label == stage.label)
    preprocess = stage.model.preprocess
    return {
        "name": stage.label,
        "source": choice.name,
        "options": choice.options,
        "classes": stage.model.classes,
        "weights": fingerprint(stage.model.module),
        "device": str(stage.model.device),
        "dtype": str(stage.model.dtype),
        "preprocess": preprocess.to_dict() if hasattr(preprocess, "to_dict") else str(preprocess),
    }


def fingerprint(module: torch.nn.Module) -> str:
    """Of all parameters and buffers: their names, shapes, types and values."""
    found = hashlib.sha256()
    for name, values in module.state_dict().items():
        if isinstance(values, torch.Tensor):
            found.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
            found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def _items(bench: Bench) -> str:
    """Of the names of the items that the run looks at."""
    return hashlib.sha256("\n".join(str(bench.data.ids[number]) for number in bench.numbers).encode()).hexdigest()[:16]


def _methods(stages: list[Stage]) -> list[dict[str, Any]]:
    tools: dict[str, Tool] = {}
    for stage in stages:
        for label, tool in stage.tools.items():
            tools.setdefault(label, tool)
    return [_method(tool) for tool in tools.values()]


def _method(tool: Tool) -> dict[str, Any]:
    if tool.method is None:
        base = BASELINES[tool.label]
        return {
            "label": tool.label,
            "name": base.name,
            "title": base.title,
            "family": "baseline",
            "summary": base.summary,
            "class_specific": base.class_specific,
            "signed": False,
            "citation": "",
            "options": {},
            "cost": "0 forward",
            "passes": 0,
        }
    return {
        "label": tool.label,
        **_card(tool.method.card),
        "options": tool.method.options,
        "cost": str(tool.method.cost),
        "passes": tool.passes,
    }


def _metric(label: str, metric: Any) -> dict[str, Any]:
    return {
        "label": label,
        **_card(metric.card),
        "options": metric.options,
        "axis": metric.axis,
        "axis_title": metric.axis_title,
        "passes": metric.passes,
    }


def _card(card: Any) -> dict[str, Any]:
    """The fields of a card that are values."""
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in vars(card).items()
        if not callable(value)
    }


def _versions() -> dict[str, str]:
    found = {"seewhy": __version__, "torch": torch.__version__, "python": platform.python_version()}
    for package in (*PACKAGES, *source_packages()):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _hardware(stages: list[Stage]) -> dict[str, Any]:
    place = stages[0].model.device
    return {
        "device": str(place),
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "gpu": torch.cuda.get_device_name(place) if place.type == "cuda" else None,
    }


def _write_skipped(store: Store, stages: list[Stage]) -> None:
    """A row for each method that cannot serve a model, with the reason."""
    for stage, label, why in ((own, *pair) for own in stages for pair in own.skipped.items()):
        name = part_name(stage.label, label, 0)
        if not store.has(name):
            store.write(
                ROWS,
                name,
                [
                    {
                        "model": stage.label,
                        "data": stage.data.card.name,
                        "split": stage.data.split,
                        "sample": "",
                        "index": -1,
                        "target": "",
                        "entry": "",
                        "method": label,
                        "metric": "",
                        "error": why,
                    }
                ],
            )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
