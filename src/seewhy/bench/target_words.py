"""The words for what a plan explains: those of Python and the command line, and their former names."""

from __future__ import annotations

from typing import Any

from seewhy.targets.parse import rank_of

LABEL_TARGETS = ("truth", "first")
"""Targets that an image's own annotation tells."""

FORMER_TARGETS = {"label": "truth", "prediction": "top-1"}
"""Words of earlier versions, and what they are called now; both can be written."""

TARGET_SCHEMA = {
    "anyOf": [
        {"enum": [*LABEL_TARGETS, "top-1"]},
        {"type": "string", "minLength": 1},
        {"type": "integer", "minimum": 0},
    ],
}


def as_target_word(value: Any) -> Any:
    """Write a target as Python and the command line do: `truth`, `first`, `top-2`, or a class by name or number."""
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise ValueError("must be truth, first, top-1, top-2 … or a class by name or number")
    word = str(value).strip()
    key = FORMER_TARGETS.get(word.lower(), word.lower())
    if key.startswith("embedding-"):
        raise ValueError("must be a class, which the metrics know the objects of")
    if rank_of(key) == 0:
        raise ValueError("must count from 1: top-1 is the class that the model answers")
    if rank := rank_of(key):
        return f"top-{rank}"
    return key if key in LABEL_TARGETS else word
