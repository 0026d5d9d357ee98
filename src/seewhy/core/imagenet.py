"""The 1000 classes of ImageNet-1k: the names people type and the WordNet ids that folders are called."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 class names in index order, each different: `imagenet_classes()[281] == "tabby"`.

    A name is the first lemma of the class's WordNet synset; the two cranes and the two maillots carry a word in
    parentheses, as in `"crane (bird)"`.
    """
    return _columns()[1]


def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1000 WordNet ids in index order, as folders are called: `imagenet_wnids()[281] == "n02123045"`."""
    return _columns()[0]


@cache
def _columns() -> tuple[tuple[str, ...], tuple[str, ...]]:
    lines = (files("seewhy.core") / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    wnids, names = zip(*(line.split("\t") for line in lines), strict=True)
    return wnids, names
