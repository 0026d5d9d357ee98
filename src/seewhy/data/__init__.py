"""Data sets: one file each, one item type, nothing is downloaded.

`load_data("voc", root="VOCdevkit", split="val")`; `DATASETS` has the cards.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from seewhy.data.base import Dataset, Item
from seewhy.data.scenes import Scene, Scenes
from seewhy.errors import OptionError, suggestion
from seewhy.registry import DATASETS

for _module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
    importlib.import_module(_module.name)


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
    cls = DATASETS.get(name)
    takes = list(inspect.signature(cls).parameters)
    if unknown := sorted(set(options) - set(takes)):
        raise OptionError(f"{cls.card.title} has no option {unknown[0]!r}{suggestion(unknown[0], takes)}")
    if cls.card.layout and root is None:
        raise OptionError(f"{cls.card.title} lies on disk; pass root= the folder with {', '.join(cls.card.layout)}")
    if split is not None:
        options["split"] = split
    return cls(root, **options) if cls.card.layout else cls(**options)


__all__ = ["DATASETS", "Dataset", "Item", "Scene", "Scenes", "load_data"]
