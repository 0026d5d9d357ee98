"""What is known of a run: a line for each epoch, as Python, CSV and, where TensorBoard is installed, its events."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seewhy.core.io import atomic_file

LOG = "log.csv"


@dataclass
class History:
    """What `fit` returns.

    Attributes:
        epochs: A dict for each epoch: `epoch` (from 0), `step`, `lr`, `seconds`, the means that the task logged, and
            the figures of the validation as `val_…`.
        best: The epoch whose weights the task has now; None where there was no validation (they are the last).
        stopped: Why the run ended: "finished", or "no gain" (early stopping).
        steps: Taken in all.
        seconds: Of training and validation, over all resumptions.
        leads: Whether this is the process that writes files, where there are several.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: int | None = None
    stopped: str = "finished"
    steps: int = 0
    seconds: float = 0.0
    leads: bool = True

    def column(self, name: str) -> list[Any]:
        """Return a figure of each epoch, None where an epoch has none.

        Args:
            name: Such as `loss` or `val_loss`.
        """
        return [line.get(name) for line in self.epochs]

    @property
    def best_line(self) -> dict[str, Any]:
        """The line of the epoch whose weights were kept; empty before the first epoch."""
        if not self.epochs:
            return {}
        return self.epochs[-1 if self.best is None else self.best]


def write_csv(path: Path, history: History) -> None:
    """Write the table of the epochs, whole or not at all."""
    columns: dict[str, None] = {}
    for line in history.epochs:
        columns.update(dict.fromkeys(line))
    with atomic_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(history.epochs)


class Events:
    """TensorBoard's events of a run; nothing where TensorBoard is not installed.

    Args:
        folder: Where they go.
        epoch: The first epoch that is written; later ones of a run that was killed are hidden.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self._writer: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(folder, purge_step=epoch)

    def write(self, epoch: int, line: Mapping[str, Any]) -> None:
        """Write the figures of an epoch."""
        if self._writer is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("epoch", "step"):
                    self._writer.add_scalar(name.replace("val_", "validation/"), value, epoch)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
