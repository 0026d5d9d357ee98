"""Progress reports of long computations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

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


def bars(shown: bool = True) -> RichProgress:
    """Return bars on standard error, which are gone when the work is done; none where that is not a terminal.

    Args:
        shown: Whether there are bars at all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
