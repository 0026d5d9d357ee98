"""Several targets of one image: one forward, and then round by round, in each of which every image has one target."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.models.instrument.shared_images import ImageIndex
from seewhy.targets import Target


def in_rounds(target: Target, index: ImageIndex | None) -> Target:
    """Return the target of `index.rounds` whole batches of the images, one after the other.

    Args:
        target: One target for each row that the index tells of.
        index: Which rows show the same image; None: each its own.
    """
    if index is None or index.rows == list(range(len(index.rows))):
        return target
    return target.at(index.rows)


def rows_of(values: Float[Tensor, "rounds images *shape"], index: ImageIndex | None) -> Float[Tensor, "rows *shape"]:
    """Return the values row by row, of values that lie round by round."""
    return values.flatten(0, 1) if index is None else index.from_rounds(values.flatten(0, 1))
