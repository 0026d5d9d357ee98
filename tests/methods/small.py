"""Every registered method on the toys, with few steps: what tests that hold for all of them run over."""

from __future__ import annotations

import torch
from toys import toy_cnn, toy_vit

from seewhy.checks.core import few_repetitions
from seewhy.core.options import options_of
from seewhy.methods.base import METHODS
from seewhy.targets import Similarity


def target_for(cls):
    """A target that the method takes, one for each of two images where it can be."""
    return Similarity(torch.linspace(-1, 1, 16)) if cls.card.target_kind == "concept" else [3, 1]


def build(cls, model):
    """The method with few steps."""
    chunked = {"batch_size": 4} if "batch_size" in options_of(cls) else {}
    return cls(model, **few_repetitions(cls), **chunked)


def pairs():
    """(name, method class, function that makes a toy that it serves)."""
    import seewhy.methods  # noqa: F401 (fills the registry)

    for cls in METHODS.values():
        for make in (toy_cnn, toy_vit):
            if not cls.why_incompatible(make()):
                yield f"{cls.card.name}-{make.__name__}", cls, make


NAMES, PAIRS = zip(*[(name, (cls, make)) for name, cls, make in pairs()], strict=True)
