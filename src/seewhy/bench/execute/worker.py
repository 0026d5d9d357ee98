"""A unit of work: a batch of samples of one model, with every method, scored by every metric.

`do_unit(plan, folder, unit)` needs only picklable things and leaves only files behind, so any worker anywhere can call
it; what a process loaded for one unit stays for the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from seewhy.bench.execute.records import (
    Record,
    failed_records,
    image_records,
    map_records,
    metric_records,
    model_records,
)
from seewhy.bench.execute.samples_seen import check_seen, note_of
from seewhy.bench.execute.scoring import describe_error, out_of_memory
from seewhy.bench.parts import IMAGES, MAPS, ROWS, part_name
from seewhy.bench.plan import Plan
from seewhy.bench.samples import IndexedSample, SampleBatch
from seewhy.bench.setup import Benchmark, ModelSetup, ModelSummary, WorkUnit
from seewhy.bench.store import Store
from seewhy.errors import SeewhyError

OnPart = Callable[[str, str, int], None]
"""Called with (model, method, batch) after each part, whether it was finished before or now."""


@lru_cache(maxsize=1)
def _benchmark(plan_text: str) -> Benchmark:
    return Benchmark(Plan.parse(plan_text))


def do_unit(plan: str, folder: str | Path, unit: WorkUnit, on_part: OnPart = lambda *_: None) -> None:
    """Compute everything of a unit that is not on disk yet.

    Args:
        plan: The plan's text.
        folder: The run's folder.
        unit: The model and the batch.
        on_part: See `OnPart`.

    Raises:
        SeewhyError: When the folder cannot be written, or the plan cannot work at all. What goes wrong with single
            images, maps or metrics becomes rows.
    """
    work(_benchmark(plan), Store(folder), unit, on_part)


def part_names(summary: ModelSummary, batch: int) -> dict[str, str]:
    """Return the file names of a unit's parts by method label; "" has the model's own predictions."""
    return {label: part_name(summary.label, label, batch) for label in ("", *summary.methods)}


def work(benchmark: Benchmark, store: Store, unit: WorkUnit, on_part: OnPart) -> None:
    """Run a unit with a benchmark that is set up already."""
    names = part_names(benchmark.summary(unit.model), unit.batch)
    runner: _UnitRunner | None = None
    for label, name in names.items():
        if not store.has(name):
            if runner is None:  # a model with nothing left to do is not opened
                runner = _UnitRunner(benchmark.setup(unit.model), *benchmark.load(unit.batch))
                check_seen(store, names[""], runner.samples)
            part = runner.compute(label)
            if benchmark.plan.protocol.keep_maps:
                store.write(MAPS if label else IMAGES, name, part.images)
            store.write(ROWS, name, part.rows, {} if label else note_of(runner.samples))
        on_part(unit.model, label, unit.batch)


@dataclass(eq=False)
class UnitPart:
    """Records of one method on a batch.

    Attributes:
        rows: Records of scores.
        images: Records of maps, or of images for the model's own predictions.
    """

    rows: list[Record] = field(default_factory=list)
    images: list[Record] = field(default_factory=list)

    def extend(self, other: UnitPart) -> None:
        """Append what another piece of the batch gives."""
        self.rows.extend(other.rows)
        self.images.extend(other.images)


@dataclass(eq=False)
class _UnitRunner:
    """One batch of one model; its sample batches are shared by all methods.

    Attributes:
        setup: The model's setup.
        samples: Samples that can be explained.
        unreadable: Positions of the other samples, and why they cannot be explained.
    """

    setup: ModelSetup
    samples: list[IndexedSample]
    unreadable: dict[int, str]
    _batches: dict[tuple[int, ...], SampleBatch] = field(default_factory=dict)

    def compute(self, label: str) -> UnitPart:
        """Return all records of a method; "" stands for the model's own predictions."""
        part = UnitPart()
        for piece in self._pieces(self.samples):
            part.extend(self._attempt(label, piece))
        for index, reason in self.unreadable.items():
            part.rows.extend(failed_records(self.setup, label, index, self.setup.data.ids[index], reason))
        return part

    def _attempt(self, label: str, samples: list[IndexedSample]) -> UnitPart:
        """Compute all samples together; in halves if memory does not suffice; one by one to find one that fails."""
        try:
            return self._compute_batch(label, self._batch(samples))
        except SeewhyError as error:
            reason, pieces = str(error), [[sample] for sample in samples]
        except Exception as error:
            if out_of_memory(error):
                reason = "out of memory with a single image; use a smaller model or another device"
                pieces = self._halve(samples)
            else:
                reason, pieces = describe_error(error), [[sample] for sample in samples]
        if len(samples) == 1:
            index, sample = samples[0]
            return UnitPart(failed_records(self.setup, label, index, sample.id, reason))
        part = UnitPart()
        for piece in pieces:
            part.extend(self._attempt(label, piece))
        return part

    def _compute_batch(self, label: str, batch: SampleBatch) -> UnitPart:
        if not label:
            return UnitPart(model_records(self.setup, batch), image_records(self.setup, batch))
        map_maker = self.setup.map_makers[label]
        started = time.perf_counter()
        maps = map_maker(batch)
        seconds = (time.perf_counter() - started) / map_maker.count_maps(batch)
        rows = metric_records(self.setup, batch, map_maker, maps, seconds)
        return UnitPart(rows, map_records(self.setup, batch, map_maker, maps))

    def _halve(self, samples: list[IndexedSample]) -> list[list[IndexedSample]]:
        """Halve the batch size from now on, and release what was kept of larger batches."""
        self._batches.clear()
        self.setup.fitting_batch = max(1, math.ceil(len(samples) / 2))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return list(self._pieces(samples))

    def _pieces(self, samples: list[IndexedSample]) -> Iterator[list[IndexedSample]]:
        step = self.setup.fitting_batch
        for start in range(0, len(samples), step):
            yield samples[start : start + step]

    def _batch(self, samples: list[IndexedSample]) -> SampleBatch:
        key = tuple(index for index, _ in samples)
        if key not in self._batches:
            self._batches[key] = self.setup.batch(samples)
        return self._batches[key]
