"""Progress reports of long computations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Protocol of a progress report: it yields items again, and shows how many are done."""

    def __call__(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Yield the items.

        Args:
            items: What is worked on.
            total: How many there are.
            label: What is done, in a word or two.
        """
        ...


def no_progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield the items and show nothing."""
    return iter(items)
