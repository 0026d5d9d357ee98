"""A dataset and some of its samples: what each check of a dataset works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from unittest import SkipTest

import numpy as np
from numpy import ndarray
from PIL import Image

from seewhy.checks.core import Check, ensure, entered, named
from seewhy.data.base import Dataset, Sample
from seewhy.errors import SeewhyError

DATASET_CHECKS: list[tuple[str, Check]] = []
"""Every check of a dataset as (name, check), filled by the decorator; `check(dataset, n=8)`."""


@dataclass
class DatasetCase:
    """A dataset, and some of its samples.

    Attributes:
        data: The dataset.
        samples: By index: the first, the last and some between; broken ones are left out.
    """

    data: Dataset
    samples: dict[int, Sample]

    @property
    def some(self) -> int:
        """The index of a sample that can be read."""
        return next(iter(self.samples))


def make_dataset_case(data: Dataset, n: int) -> DatasetCase:
    """Read `n` samples spread over a dataset; at least one must be readable."""
    samples: dict[int, Sample] = {}
    reasons: list[str] = []
    for i in np.unique(np.linspace(0, len(data) - 1, min(n, len(data))).round().astype(int)).tolist():
        try:
            samples[i] = data[i]
        except SeewhyError as error:  # what is broken on disk is no fault of the reader
            reasons.append(str(error))
    ensure(samples, f"none of its samples can be read ({reasons[0] if reasons else 'it is empty'})")
    return DatasetCase(data, samples)


def dataset_check(fn: Callable[[DatasetCase], None]) -> Check:
    """Make a public check of a function of a case, and put it on `DATASET_CHECKS`."""

    def run(dataset: Dataset, n: int = 8) -> None:
        with named(dataset.card.name, fn.__name__):
            fn(make_dataset_case(dataset, n))

    return entered(DATASET_CHECKS, fn, run)


def each_with(case: DatasetCase, name: str) -> list[tuple[Sample, ndarray]]:
    """Return the samples that have it, each with its value; `SkipTest` if there are none."""
    found = [(sample, getattr(sample, name)) for sample in case.samples.values() if getattr(sample, name) is not None]
    if not found:
        raise SkipTest(f"no sample has {name}")
    return found


def same_sample(a: Sample, b: Sample) -> bool:
    """Tell whether every field is the same, pixel by pixel."""
    return type(a) is type(b) and all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Image.Image):
        return isinstance(b, Image.Image) and a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()
    if isinstance(a, ndarray):
        return isinstance(b, ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return bool(a == b)
