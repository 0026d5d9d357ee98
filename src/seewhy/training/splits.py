"""Parts of a dataset that have the same share of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from seewhy.errors import DataError, OptionError


def stratified_folds(labels: Sequence[int] | Int[ndarray, " n"], k: int, seed: int = 0) -> list[Int[ndarray, " _"]]:
    """Return k parts that together are all samples; each class is spread over them evenly.

    The samples of a class are shuffled and dealt one after the other, and the next class goes on where the last one
    ended: the numbers of a class, and the sizes of the parts, differ by at most one.

    Args:
        labels: The class of each sample.
        k: Number of parts.
        seed: Of the shuffling.

    Returns:
        The numbers of the samples of each part, sorted.

    Raises:
        OptionError: There are fewer than two parts, or fewer samples than parts.
    """
    classes = np.asarray(labels)
    if not 2 <= k <= len(classes):
        raise OptionError(f"{len(classes)} samples cannot be split into {k} folds; use 2 to {max(2, len(classes))}")
    rng = np.random.default_rng(seed)
    dealt = np.concatenate([rng.permutation(np.flatnonzero(classes == c)) for c in np.unique(classes)])
    return [np.sort(dealt[i::k]) for i in range(k)]


def stratified_parts(
    labels: Sequence[int] | Int[ndarray, " n"], shares: Sequence[float], seed: int = 0
) -> list[Int[ndarray, " _"]]:
    """Return parts with the given shares of each class, to the nearest sample; the last one gets what is left.

    Args:
        labels: The class of each sample.
        shares: Of all samples; together at most 1, and the rest belongs to the last part.
        seed: Of the shuffling.

    Returns:
        The numbers of the samples of each part, sorted.

    Raises:
        OptionError: A share is not between 0 and 1, or together they are more than 1.
    """
    if any(not 0 < share < 1 for share in shares) or sum(shares) > 1 + 1e-9:
        raise OptionError(f"the shares {list(shares)} must lie between 0 and 1, and together be at most 1")
    classes, rng = np.asarray(labels), np.random.default_rng(seed)
    ends = np.cumsum(shares)[:-1]
    parts: list[list[Int[ndarray, " _"]]] = [[] for _ in shares]
    for c in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == c))
        for part, chosen in zip(parts, np.split(members, np.rint(ends * len(members)).astype(int)), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def balanced(labels: Sequence[int] | Int[ndarray, " n"], seed: int = 0) -> Int[ndarray, " m"]:
    """Return samples of which each class has as many as the rarest one, sorted; the rest is left out by chance."""
    classes, rng = np.asarray(labels), np.random.default_rng(seed)
    names, counts = np.unique(classes, return_counts=True)
    return np.sort(np.concatenate([rng.permutation(np.flatnonzero(classes == c))[: counts.min()] for c in names]))


def check_classes(labels: Sequence[int] | Int[ndarray, " n"], class_names: Sequence[str], what: str = "data") -> None:
    """Check that there are samples of at least two classes.

    Args:
        labels: The class of each sample.
        class_names: Of the dataset.
        what: The data, for people.

    Raises:
        DataError: There are none, or all are of one class.
    """
    found = np.unique(np.asarray(labels, dtype=int))
    if len(found) == 0:
        raise DataError(f"the {what} have no sample with one class; check the folder, its labels and its split")
    if len(found) == 1:
        name = class_names[int(found[0])] if int(found[0]) < len(class_names) else str(int(found[0]))
        raise DataError(f"all samples of the {what} are of one class, {name!r}; a classifier needs at least two")
