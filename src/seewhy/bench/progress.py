"""Progress of a run: a bar for each method where somebody watches, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.progress import TaskID

from seewhy.bench.execute.run import Watcher
from seewhy.bench.setup import Benchmark, ModelSummary
from seewhy.core.progress import bars

SECONDS = 10.0
"""Least time between two lines."""


class Bars(Watcher):
    """Progress on standard error; the display ends with the block.

    On a terminal there is a bar for each method of each model. In a pipe there is a line at the start, at the end, and
    in between at most one every ten seconds.

    Args:
        shown: Whether anything is shown.
    """

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self.bars = bars(shown)
        self.tasks: dict[tuple[str, str], TaskID] = {}
        self.done = self.total = 0
        self.last = 0.0

    def begin(self, benchmark: Benchmark, models: Sequence[ModelSummary]) -> None:
        """Show a bar for each method of each model."""
        several, batches = len(models) > 1, len(benchmark.batches)
        self.total = sum(len(model.methods) for model in models) * batches
        for model in models:
            for label in model.methods:
                title = f"{model.label} {label}" if several else label
                self.tasks[model.label, label] = self.bars.add_task(title, total=batches)
        self.bars.start()
        images = len(benchmark.indices)
        self._line(f"{self.total} parts: {len(self.tasks)} maps of each image, {images} images in {batches} batches")

    def part(self, model: str, method: str, batch: int) -> None:
        """Advance a method's bar by one batch."""
        if (model, method) not in self.tasks:
            return
        self.bars.advance(self.tasks[model, method])
        self.done += 1
        if self.done == self.total or time.monotonic() - self.last > SECONDS:
            self._line(f"{self.done}/{self.total} parts, last {model} {method} batch {batch}")

    def _line(self, text: str) -> None:
        if self.shown and self.bars.disable:  # nobody watches: a log
            print(text, file=sys.stderr, flush=True)
        self.last = time.monotonic()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()
