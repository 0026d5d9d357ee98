"""One piece of work: a batch of pictures of one model, with every method, scored by every metric.

`do_unit(plan, folder, unit)` needs only picklable things and leaves only files behind, so any worker anywhere can call
it; what a process loaded for one unit stays for the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from seewhy.bench.execute.records import failed_rows, image_rows, map_rows, metric_rows, model_rows
from seewhy.bench.execute.scoring import first_line, out_of_memory
from seewhy.bench.plan import Plan
from seewhy.bench.samples import Chunk
from seewhy.bench.setup import Bench, Stage, Unit
from seewhy.bench.store import IMAGES, MAPS, ROWS, Store, part_name
from seewhy.data import Item
from seewhy.errors import SeewhyError

OnPart = Callable[[str, str, int], None]


@lru_cache(maxsize=1)
def _bench(text: str) -> Bench:
    return Bench(Plan.parse(text))


def do_unit(plan: str, folder: str | Path, unit: Unit, on_part: OnPart = lambda *_: None) -> None:
    """Everything of a unit that is not on disk yet. Returns when it is.

    Args:
        plan: the plan's text.
        folder: of the run.
        on_part: called with (model, method, batch) after each part, finished before or now.

    Raises:
        SeewhyError: the folder cannot be written, or the plan cannot work at all. What goes wrong with single
            pictures, maps or metrics becomes rows.
    """
    work(_bench(plan), Store(folder), unit, on_part)


def parts_of(stage: Stage, batch: int) -> dict[str, str]:
    """File names by method label; "" has the model's own answers."""
    return {label: part_name(stage.label, label, batch) for label in ("", *stage.tools)}


def work(bench: Bench, store: Store, unit: Unit, on_part: OnPart) -> None:
    """`do_unit` with everything at hand."""
    stage = bench.stage(unit.model)
    parts = parts_of(stage, unit.batch)
    todo = [label for label, name in parts.items() if not store.has(name)]
    runner = _Runner(stage, *bench.load(unit.batch)) if todo else None
    for label, name in parts.items():
        if label in todo:
            rows, maps = runner.part(label)
            if stage.plan.protocol.keep_maps:
                store.write(MAPS if label else IMAGES, name, maps)
            store.write(ROWS, name, rows)
        on_part(stage.label, label, unit.batch)


Part = tuple[list[dict[str, Any]], list[dict[str, Any]]]


@dataclass(eq=False)
class _Runner:
    """One batch of one model; its chunks are shared by all methods."""

    stage: Stage
    items: list[tuple[int, Item]]
    bad: dict[int, str]
    _chunks: dict[tuple[int, ...], Chunk] = field(default_factory=dict)

    def part(self, label: str) -> Part:
        """Rows and maps (or pictures, for the model's own answers) of a method."""
        found: Part = ([], [])
        for piece in self._pieces(self.items):
            self._add(found, self._attempt(label, piece))
        for number, error in self.bad.items():
            found[0].extend(failed_rows(self.stage, label, number, self.stage.data.ids[number], error))
        return found

    def _attempt(self, label: str, items: list[tuple[int, Item]]) -> Part:
        """All together; smaller if memory does not do; one by one if something fails, to find out which."""
        try:
            return self._compute(label, self._chunk(items))
        except SeewhyError as error:
            why, smaller = str(error), [[item] for item in items]
        except Exception as error:
            why, smaller = f"{type(error).__name__}: {first_line(error)}", [[item] for item in items]
            if out_of_memory(error):
                why = "out of memory with a single picture; use a smaller model or another device"
                smaller = self._halved(items)
        if len(items) == 1:
            number, item = items[0]
            return failed_rows(self.stage, label, number, item.id, why), []
        found: Part = ([], [])
        for piece in smaller:
            self._add(found, self._attempt(label, piece))
        return found

    def _compute(self, label: str, chunk: Chunk) -> Part:
        if not label:
            return model_rows(self.stage, chunk), image_rows(self.stage, chunk)
        tool = self.stage.tools[label]
        started = time.perf_counter()
        maps = tool(chunk)
        seconds = (time.perf_counter() - started) / tool.made(chunk)
        rows = metric_rows(self.stage, chunk, tool, maps, seconds)
        return rows, map_rows(self.stage, chunk, tool, maps) if self.stage.plan.protocol.keep_maps else []

    def _halved(self, items: list[tuple[int, Item]]) -> list[list[tuple[int, Item]]]:
        """The batch in two, from now on; what was kept of larger batches is let go."""
        self._chunks.clear()
        self.stage.limit = max(1, -(-len(items) // 2))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return list(self._pieces(items))

    def _pieces(self, items: list[tuple[int, Item]]) -> Iterator[list[tuple[int, Item]]]:
        step = self.stage.limit
        for start in range(0, len(items), step):
            yield items[start : start + step]

    def _chunk(self, items: list[tuple[int, Item]]) -> Chunk:
        key = tuple(number for number, _ in items)
        if key not in self._chunks:
            self._chunks[key] = self.stage.chunk(items)
        return self._chunks[key]

    @staticmethod
    def _add(found: Part, more: Part) -> None:
        found[0].extend(more[0])
        found[1].extend(more[1])
