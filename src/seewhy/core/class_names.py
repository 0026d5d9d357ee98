"""Finding a class by the name that a person or a dataset writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from seewhy.core.imagenet import imagenet_classes, imagenet_wnids
from seewhy.errors import TargetError, UnknownNameError

SAME_NAMES = 0.99
"""Share of names that a list has in common with ours where it is ImageNet's: libraries spell four differently."""


def find_class(name: str, names: Sequence[str]) -> int:
    """Return the index of the class that is called so.

    A name that is written exactly so comes before one that differs in case or punctuation, and a whole name before one
    of the synonyms of a comma-separated name; `crane` is asked about where there are `crane (bird)` and `crane
    (machine)`. For the list of ImageNet-1k, whoever spelled it, our own spelling and
    WordNet ids do as well.

    Args:
        name: What was written; not a number.
        names: The classes in index order.

    Raises:
        UnknownNameError: There is no such class; the message suggests the nearest.
        TargetError: The name is that of several classes.
    """
    for matches in _candidates(name.strip(), tuple(names)):
        if len(matches) > 1:
            listed = ", ".join(f"{i} ({names[i]})" for i in matches)
            raise TargetError(f"{name!r} is the name of several classes: {listed}; give the class number")
        if matches:
            return matches[0]
    raise UnknownNameError("class", name, names)


def is_imagenet(names: Sequence[str]) -> bool:
    """Tell whether names are those of ImageNet-1k in the usual order, whoever spelled them."""
    return _is_imagenet(tuple(names))


def _candidates(name: str, names: tuple[str, ...]) -> Iterator[list[int]]:
    """Yield the classes that a name may mean, the closest first."""
    for spelled in (str.strip, _fold):
        wanted = spelled(name)
        yield [i for i, known in enumerate(names) if spelled(known) == wanted]
        yield [i for i, known in enumerate(names) if wanted in _synonyms(known, spelled)]
    yield [i for i, known in enumerate(names) if _fold(known.partition("(")[0]) == _fold(name)]
    if is_imagenet(names):
        for ours in (imagenet_wnids(), tuple(map(_fold, imagenet_classes()))):
            yield [i for i, known in enumerate(ours) if known in (name, _fold(name))]


def _synonyms(name: str, spelled: Callable[[str], str]) -> list[str]:
    return [spelled(synonym) for synonym in name.split(",")]


@lru_cache(maxsize=8192)
def _fold(name: str) -> str:
    """Normalize case, hyphens, underscores and punctuation."""
    return " ".join(re.sub(r"[-_(),]", " ", name.lower()).split())


@lru_cache(maxsize=8)
def _is_imagenet(names: tuple[str, ...]) -> bool:
    ours = imagenet_classes()
    if len(names) != len(ours):
        return False
    same = sum(_fold(own) in (_fold(name), _fold(name.split(",")[0])) for own, name in zip(ours, names, strict=True))
    return same >= SAME_NAMES * len(ours)
