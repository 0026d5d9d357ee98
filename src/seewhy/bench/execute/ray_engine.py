"""A plan on many machines: Ray Data hands units to workers that hold the model and write the same Parquet parts.

Ray brings scheduling, back-pressure and the recovery from lost workers; what a unit is and how it is done is
`work.do_unit`, as on one machine. The run's folder must be reachable by all workers under one path.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from seewhy.bench.execute.run import Engine
from seewhy.bench.execute.worker import OnPart, do_unit
from seewhy.bench.setup import Bench, Unit
from seewhy.bench.store import Store
from seewhy.errors import OptionError, SeewhyError, require


def on_ray(workers: int = 2, gpus: float = 0, cpus: float = 1, address: str | None = None) -> Engine:
    """An engine for `run` and `resume`.

    Args:
        workers: processes, each with a model of its own.
        gpus, cpus: of each worker (a share of a GPU is possible).
        address: of a cluster that runs already (`auto`); by default one is started on this machine and stopped again.

    Raises:
        OptionError: no workers. MissingExtraError: Ray is not installed.
    """
    if workers < 1:
        raise OptionError(f"workers={workers} cannot work; use 1 or more")
    require("ray.data", "ray")

    def engine(bench: Bench, store: Store, units: list[Unit], on_part: OnPart) -> None:
        ray = require("ray", "ray")
        rows = [{"model": unit.model, "batch": unit.batch} for unit in units]
        with _cluster(ray, address, max(1, round(workers * cpus))):
            made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Worker,
                fn_constructor_args=(bench.plan.text, str(store.folder.absolute())),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_gpus=gpus,
                num_cpus=cpus,
            )
            for done in made.iter_batches(batch_size=1, prefetch_batches=0):
                if done["error"][0]:
                    raise SeewhyError(str(done["error"][0]))
                for model, label, batch in zip(done["models"][0], done["methods"][0], done["batches"][0], strict=True):
                    on_part(str(model), str(label), int(batch))

    return engine


class _Worker:
    """What each process of Ray holds; a killed one is started again and its unit is done again, part by part."""

    def __init__(self, plan: str, folder: str) -> None:
        self.plan, self.folder = plan, folder

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        parts: list[tuple[str, str, int]] = []
        error = ""
        for model, number in zip(batch["model"], batch["batch"], strict=True):
            try:
                do_unit(self.plan, self.folder, Unit(str(model), int(number)), lambda *part: parts.append(part))
            except SeewhyError as found:  # a full disk, say: trying again on another worker would not help
                error = str(found)
        models, methods, batches = zip(*parts, strict=True) if parts else ((), (), ())
        return {"models": [list(models)], "methods": [list(methods)], "batches": [list(batches)], "error": [error]}


@contextmanager
def _cluster(ray: Any, address: str | None, cpus: int) -> Iterator[None]:
    """A connection to Ray; one that was there before stays."""
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
