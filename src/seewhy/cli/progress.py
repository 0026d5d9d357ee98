"""Progress of a benchmark: a bar with the time left for each method."""

from __future__ import annotations

from typing import Any

from seewhy.bench.execute.run import Watcher
from seewhy.cli import common


class Bars(Watcher):
    """Bars on standard error; the display ends with the process."""

    def begin(self, bench: Any, stages: Any) -> None:
        self.bars = common.bars()
        several = len(stages) > 1
        self.tasks = {
            (stage.label, label): self.bars.add_task(
                f"{stage.label} {label}" if several else label, total=len(bench.batches)
            )
            for stage in stages
            for label in stage.tools
        }
        self.bars.start()

    def part(self, model: str, method: str, batch: int) -> None:
        if (model, method) in self.tasks:
            self.bars.advance(self.tasks[model, method])

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "bars"):
            self.bars.stop()
