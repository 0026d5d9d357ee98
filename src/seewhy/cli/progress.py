"""Progress of a benchmark: a bar with the time left for each method."""

from __future__ import annotations

from collections.abc import Sequence

from seewhy.bench.execute.run import Watcher
from seewhy.bench.setup import Benchmark, ModelSummary
from seewhy.cli import common


class Bars(Watcher):
    """Bars on standard error; the display ends with the process."""

    def begin(self, benchmark: Benchmark, models: Sequence[ModelSummary]) -> None:
        """Show a bar for each method of each model."""
        self.bars = common.bars()
        several = len(models) > 1
        self.tasks = {
            (model.label, label): self.bars.add_task(
                f"{model.label} {label}" if several else label, total=len(benchmark.batches)
            )
            for model in models
            for label in model.methods
        }
        self.bars.start()

    def part(self, model: str, method: str, batch: int) -> None:
        """Advance a method's bar by one batch."""
        if (model, method) in self.tasks:
            self.bars.advance(self.tasks[model, method])

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "bars"):
            self.bars.stop()
