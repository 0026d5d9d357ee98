"""What targets of regions and of detections have in common: a class for each image, or a rank where it is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from seewhy.errors import TargetError
from seewhy.targets.base import Target


class PlaceTarget(Target):
    """A class at a place of the image.

    Attributes:
        index: One class number, or one for each image; empty: chosen by `rank`.
        rank: Without an index: 1 for the first by the model's own order, 2 for the next.
    """

    index: tuple[int, ...]
    rank: int

    def class_at(self, row: int) -> int:
        """Return the class of image `row`."""
        return self.index[row % len(self.index)]

    def classes_at(self, rows: Sequence[int]) -> tuple[int, ...]:
        """Return the index of a batch that is made of these rows of the original batch."""
        return self.index if len(self.index) < 2 else tuple(self.index[row] for row in rows)

    def check_counts(self, batch: int, places: Tensor | None, shared_ndim: int, kind: str) -> None:
        """Check that there is one class and one place, or one for each image.

        Args:
            batch: The number of images.
            places: The masks or boxes; None: still open.
            shared_ndim: How many dimensions one place for all images has.
            kind: What a place is called, in the plural.

        Raises:
            TargetError: There are others.
        """
        count = 1 if places is None or places.ndim == shared_ndim else len(places)
        for n, what in ((len(self.index) or 1, "targets"), (count, kind)):
            if n not in (1, batch):
                raise TargetError(f"{n} {what} for {batch} images; give one, or one for each image")

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name the class of image `row`."""
        if not self.index:
            return f"top-{self.rank} {self.kind}"
        index = self.class_at(row)
        return names[index] if names and index < len(names) else f"class {index}"

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Describe the class of image `row`."""
        described = super().describe(row, names)
        return {**described, "index": self.class_at(row)} if self.index else described
