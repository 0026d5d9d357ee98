"""Run a plan on this machine, from the first check to the last part, and go on after any interruption."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from seewhy.bench.execute.locks import claimed
from seewhy.bench.execute.records import skipped_record
from seewhy.bench.execute.samples_seen import check_finished
from seewhy.bench.execute.worker import OnPart, part_names, work
from seewhy.bench.manifest import describe_card, describe_hardware, describe_metric, installed_versions
from seewhy.bench.parts import ROWS, part_name
from seewhy.bench.plan import Plan
from seewhy.bench.setup import Benchmark, Given, ModelSummary, WorkUnit
from seewhy.bench.store import CLAIMS, SCHEMA, Store
from seewhy.bench.toml import DIGEST
from seewhy.errors import DataError, ModelError, OptionError

POLL = 0.5
"""Seconds between two looks at units that other processes have claimed."""

Engine: TypeAlias = Callable[[Benchmark, Store, list[WorkUnit], OnPart], None]
"""What does the units of a run."""


class Watcher:
    """Callbacks for the progress of a run; subclasses override what they need."""

    def begin(self, benchmark: Benchmark, models: Sequence[ModelSummary]) -> None:
        """Prepare for the first batch; everything has been checked."""

    def part(self, model: str, method: str, batch: int) -> None:
        """Note that a method has done a batch."""


def run(
    plan: Plan | str | Path,
    folder: str | Path,
    watcher: Watcher | None = None,
    engine: Engine | None = None,
    given: Given | None = None,
) -> Store:
    """Run a plan into a new folder.

    Args:
        plan: A plan, or the path of its TOML file.
        folder: A folder that does not hold anything yet.
        watcher: Is called after each finished part.
        engine: What does the units; by default this process, one after the other.
        given: Models and data that the plan only names.

    Returns:
        The finished run.

    Raises:
        SeewhyError: When the plan cannot work (before the first forward), or the folder cannot be written.
    """
    plan = plan if isinstance(plan, Plan) else Plan.read(plan)
    benchmark = Benchmark(plan, given)
    models = benchmark.check()
    return _execute(benchmark, models, Store.create(folder, plan.text), watcher or Watcher(), engine or local)


def resume(
    folder: str | Path,
    plan: Plan | str | Path | None = None,
    watcher: Watcher | None = None,
    engine: Engine | None = None,
    given: Given | None = None,
) -> Store:
    """Finish a run; parts that are done are not touched.

    Args:
        folder: The run's folder.
        plan: The plan that the run must have been started with; by default it is not compared.
        watcher: Is called after each finished part.
        engine: What does the units; by default this process, one after the other.
        given: Models and data that the plan only names.

    Returns:
        The finished run.

    Raises:
        DataError: When the folder holds no run.
        OptionError: When the plan is not the one that the run was started with, or names what only Python can give.
    """
    store = Store.open(folder)
    stored_plan = Plan.parse(store.plan_text, str(store.folder / "plan.toml"))
    if plan is not None:
        expected = plan if isinstance(plan, Plan) else Plan.read(plan)
        if expected.digest != stored_plan.digest:
            raise OptionError(f"{store.folder} was run with another plan; leave the plan out, or start another run")
    begun_with = store.manifest.get("plan_digest", "")
    if begun_with.startswith(DIGEST) and begun_with != stored_plan.digest:
        raise OptionError(
            f"the plan in {store.folder} was changed since the run began; put it back, or start another run with it"
        )
    missing = sorted(set(store.manifest.get("in_python", ())) - set((given or Given()).names))
    if missing:
        raise OptionError(
            f"{store.folder} has {', '.join(missing)} from a Python session; go on there: "
            f"seewhy.evaluate(…, folder={str(store.folder)!r})"
        )
    benchmark = Benchmark(stored_plan, given)
    return _execute(benchmark, benchmark.check(), store, watcher or Watcher(), engine or local)


def _execute(
    benchmark: Benchmark, models: Sequence[ModelSummary], store: Store, watcher: Watcher, engine: Engine
) -> Store:
    store.tidy()
    previous, manifest = store.manifest, _build_manifest(benchmark, models)
    _check_same_inputs(previous, manifest)
    broken = store.drop_broken()
    store.check_parts_of_this_plan()
    warnings = [f"broken, computed again: {name}" for name in broken]
    store.write_manifest(_merge_manifests(previous, manifest, warnings))
    _write_skipped(benchmark, store, models)
    check_finished(benchmark, store, models)
    watcher.begin(benchmark, models)
    engine(benchmark, store, benchmark.units, watcher.part)
    batches = range(len(benchmark.batches))
    parts = [name for model in models for batch in batches for name in part_names(model, batch).values()]
    missing = [name for name in parts if not store.has(name)]
    if missing:
        raise DataError(f"{len(missing)} parts were not written; continue with `seewhy bench resume {store.folder}`")
    store.clear_claims()
    store.write_manifest({**store.manifest, "finished": _now()})
    return store


def local(benchmark: Benchmark, store: Store, units: list[WorkUnit], on_part: OnPart) -> None:
    """Do one unit after the other; those that another process works on are left to it, unless it dies."""
    remaining = units
    while remaining:
        claimed_elsewhere = []
        for unit in remaining:
            with claimed(store.folder / CLAIMS, part_name(unit.model, "", unit.batch)) as is_ours:
                if is_ours:
                    work(benchmark, store, unit, on_part)
                else:
                    claimed_elsewhere.append(unit)
        if len(claimed_elsewhere) == len(remaining):
            time.sleep(POLL)
        remaining = claimed_elsewhere


# ── the manifest ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _build_manifest(benchmark: Benchmark, models: Sequence[ModelSummary]) -> dict[str, Any]:
    plan, data = benchmark.plan, benchmark.data
    named = {entry.label for entry in plan.methods}
    methods: dict[str, dict[str, Any]] = {}
    for model in models:
        for label, description in model.methods.items():
            methods.setdefault(label, description)
    return {
        "schema": SCHEMA,
        "plan_digest": plan.digest,
        "seed": plan.seed,
        "started": _now(),
        "finished": None,
        "versions": installed_versions(),
        "hardware": describe_hardware(models[0].device),
        "warnings": [],
        "protocol": plan.protocol.model_dump(),
        "published": plan.published,
        "data": {
            **describe_card(data.card),
            "split": data.split,
            "root": plan.data.root,
            "length": len(data),
            "n": len(benchmark.indices),
            "items": _digest_of_samples(benchmark),
            "options": plan.data.options,
        },
        "in_python": benchmark.given.names,
        "models": [model.description for model in models],
        "methods": list(methods.values()),
        "metrics": [describe_metric(label, metric) for label, metric in benchmark.metrics.items()],
        "skipped": [
            {"model": model.label, "method": label, "reason": reason, "named": label in named}
            for model in models
            for label, reason in model.skipped.items()
        ],
    }


def _check_same_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that a resumed run has the images and weights that it began with.

    Raises:
        DataError: When it has other images.
        ModelError: When it has other weights.
    """
    if old.get("data", {}).get("items", new["data"]["items"]) != new["data"]["items"]:
        raise DataError(
            f"{new['data']['title']} {new['data']['split']} holds other samples than when the run began; "
            "put them back, or start another run"
        )
    old_weights = {model["name"]: model.get("weights") for model in old.get("models", ())}
    for model in new["models"]:
        if old_weights.get(model["name"]) not in (None, model["weights"]):
            raise ModelError(
                f"{model['source']} has other weights than when the run began; put them back, or start another run"
            )


def _merge_manifests(old: Mapping[str, Any], new: Mapping[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
    """Return the manifest of a resumed run, which keeps its start and warns where versions changed."""
    if not old:
        return dict(new)
    changed = [
        f"{name} {old['versions'].get(name)} -> {version}"
        for name, version in new["versions"].items()
        if old["versions"].get(name) != version
    ]
    if changed:
        warnings = [*warnings, f"resumed with other versions: {', '.join(changed)}"]
    return {
        **new,
        "started": old["started"],
        "versions": old["versions"],
        "hardware": old["hardware"],
        "warnings": [*old["warnings"], *(f"{_now()}: {warning}" for warning in warnings)],
    }


def _digest_of_samples(benchmark: Benchmark) -> str:
    """Return a digest of the ids of all samples of the run."""
    ids = "\n".join(str(benchmark.data.ids[index]) for index in benchmark.indices)
    return hashlib.sha256(ids.encode()).hexdigest()[:16]


def _write_skipped(benchmark: Benchmark, store: Store, models: Sequence[ModelSummary]) -> None:
    """Write a row for each method that cannot serve a model, with the reason."""
    data, split = benchmark.data.card.name, benchmark.data.split
    for model in models:
        for label in model.skipped:
            name = part_name(model.label, label, 0)
            if not store.has(name):
                store.write(ROWS, name, [skipped_record(model, data, split, label)])


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
