"""From a name to a dataset."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from seewhy.data.base import DATASETS, Dataset
from seewhy.errors import OptionError, suggestion


def load_data(name: str, root: str | Path | None = None, split: str | None = None, **options: Any) -> Dataset:
    """A data set by its name in `DATASETS`.

    Args:
        root: its folder on disk; none for data that are made.
        split: one of `card.splits`, by default the first.
        options: what else this data set takes (`year=2007` …).

    Raises:
        UnknownNameError: no such data set. OptionError: no such split or option, or no root where one is needed.
        DataError: the folder is not laid out as it should be.
    """
    cls = DATASETS[name]
    takes = list(inspect.signature(cls).parameters)
    if unknown := sorted(set(options) - set(takes)):
        raise OptionError(f"{cls.card.title} has no option {unknown[0]!r}{suggestion(unknown[0], takes)}")
    if cls.card.layout and root is None:
        raise OptionError(f"{cls.card.title} lies on disk; pass root= the folder with {', '.join(cls.card.layout)}")
    if split is not None:
        options["split"] = split
    return cls(root, **options) if cls.card.layout else cls(**options)
