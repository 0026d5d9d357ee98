"""A plan on many machines: Ray Data hands units to workers that hold the model and write the same Parquet parts.

Ray brings scheduling, back-pressure and the recovery from lost workers; what a unit is and how it is done is
`worker.do_unit`, as on one machine. The run's folder must be reachable by all workers under one path.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seewhy.bench.execute.run import Engine
from seewhy.bench.execute.worker import OnPart, do_unit
from seewhy.bench.setup import Benchmark, WorkUnit
from seewhy.bench.store import Store
from seewhy.errors import OptionError, SeewhyError, require


def on_ray(workers: int = 2, gpus: float = 0, cpus: float = 1, address: str | None = None) -> Engine:
    """Return an engine for `run` and `resume` that works on Ray.

    Args:
        workers: Processes, each with a model of its own.
        gpus: GPUs of each worker; a fraction shares one.
        cpus: CPU cores of each worker.
        address: Address of a running cluster (`auto`); by default Ray is started on this machine and stopped again.

    Raises:
        OptionError: When there are no workers.
        MissingExtraError: When Ray is not installed.
    """
    if workers < 1:
        raise OptionError(f"workers must be at least 1, got {workers}")
    require("ray.data", "ray")

    def engine(benchmark: Benchmark, store: Store, units: list[WorkUnit], on_part: OnPart) -> None:
        ray: Any = require("ray", "ray")
        rows = [{"model": unit.model, "batch": unit.batch} for unit in units]
        with _cluster(ray, address, max(1, round(workers * cpus))):
            results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _RayWorker,
                fn_constructor_args=(benchmark.plan.text, str(store.folder.absolute())),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_gpus=gpus,
                num_cpus=cpus,
            )
            for result in results.iter_batches(batch_size=1, prefetch_batches=0):
                if result["error"][0]:
                    raise SeewhyError(str(result["error"][0]))
                parts = zip(result["models"][0], result["methods"][0], result["batches"][0], strict=True)
                for model, label, batch in parts:
                    on_part(str(model), str(label), int(batch))

    return engine


class _RayWorker:
    """State of one Ray process; a killed one is restarted and its unit is done again, part by part."""

    def __init__(self, plan: str, folder: str) -> None:
        self.plan = plan
        self.folder = folder

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        parts: list[tuple[str, str, int]] = []
        message = ""
        for model, number in zip(batch["model"], batch["batch"], strict=True):
            unit = WorkUnit(str(model), int(number))
            try:
                do_unit(self.plan, self.folder, unit, lambda *part: parts.append(part))
            except SeewhyError as error:  # such as a full disk: trying again on another worker would not help
                message = str(error)
        models, methods, batches = zip(*parts, strict=True) if parts else ((), (), ())
        return {"models": [list(models)], "methods": [list(methods)], "batches": [list(batches)], "error": [message]}


@contextmanager
def _cluster(ray: Any, address: str | None, cpus: int) -> Iterator[None]:
    """Connect to Ray; a connection that was there before stays."""
    if ray.is_initialized():
        yield
        return
    local = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    bars, context.enable_progress_bars = context.enable_progress_bars, False  # the run has its own
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        log.setLevel(level)
        ray.shutdown()
