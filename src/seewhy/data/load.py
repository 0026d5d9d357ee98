"""Loading a dataset by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from seewhy.core.options import check_option_names
from seewhy.data.base import DATASETS, Dataset
from seewhy.errors import OptionError


def load_data(name: str, root: str | Path | None = None, split: str | None = None, **options: Any) -> Dataset:
    """Load a dataset by its name in `DATASETS`.

    Args:
        name: The dataset's name.
        root: Its folder on disk; none for generated data.
        split: One of `card.splits`, by default the first.
        **options: Further arguments of this dataset (`year=2007` …).

    Raises:
        UnknownNameError: When there is no such dataset.
        OptionError: When there is no such split or option, or no root where one is needed.
        DataError: When the folder is not laid out as it should be.
    """
    cls = cast(Callable[..., Dataset], DATASETS[name])  # each has arguments of its own
    card = DATASETS[name].card
    accepted = list(inspect.signature(cls).parameters)
    check_option_names(card.title, options, accepted)
    if card.layout and root is None:
        raise OptionError(f"{card.title} is read from disk; pass root= the folder with {', '.join(card.layout)}")
    if split is not None:
        options["split"] = split
    return cls(root, **options) if card.layout else cls(**options)
