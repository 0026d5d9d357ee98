"""Change of a model's preprocessing by a plan: a paper's resize and crop in place of the library's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seewhy.core.preprocess import Preprocess
from seewhy.errors import OptionError, SeewhyError
from seewhy.models.adapter import VisionModel

GEOMETRY = ("size", "resize", "crop", "interpolation")
"""The options of `Preprocess` that a plan may change; colors stay the model's own."""


def check_geometry(changes: Any) -> Any:
    """Return `[protocol] preprocess` of a plan if it can be used.

    Raises:
        ValueError: When it holds another option, or a value that cannot be used.
    """
    if isinstance(changes, dict):
        if unknown := sorted(changes.keys() - set(GEOMETRY)):
            raise ValueError(f"has no option {unknown[0]!r}; use {', '.join(GEOMETRY)}")
        try:
            Preprocess.from_dict(changes)
        except (SeewhyError, TypeError, ValueError) as error:
            raise ValueError(f"cannot be used ({error})") from None
    return changes


def change_geometry(model: VisionModel, changes: Mapping[str, Any]) -> None:
    """Let a model see images as a plan says.

    Raises:
        OptionError: When the model has a preprocess function of its own.
    """
    if not changes:
        return
    if not isinstance(model.preprocess, Preprocess):
        raise OptionError(f"{model.name} has a preprocess function of its own; leave preprocess out of [protocol]")
    if changes.get("crop") == "pad" and "resize" not in changes:
        changes = {**changes, "resize": None}  # TOML has no None: the image keeps its size
    model.preprocess = Preprocess.from_dict({**model.preprocess.to_dict(), **changes})
