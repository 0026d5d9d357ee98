"""Checks that cards of methods and metrics share: texts, names, declared options, and the place of the file."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from seewhy.checks.core import NOT_ONE, ensure, one_sentence
from seewhy.core.options import options_of
from seewhy.methods.base import Method
from seewhy.metrics.base import Metric


def complaints(cls: type[Method] | type[Metric], folder: str, package: str, names: Iterable[str] = ()) -> Iterator[str]:
    """Find what a card lacks.

    Args:
        cls: The method or metric.
        folder: The field that says in which folder of `package` the file lies.
        package: The package of ours that holds such classes.
        names: Further names beside the card's own.

    Yields:
        What is wrong, in words.
    """
    card = cls.card
    for name in (card.name, *names):
        if not name.isidentifier() or name != name.lower():
            yield f"the name {name!r} is not in snake_case"
    for field in ("title", folder, "citation"):
        if not getattr(card, field).strip():
            yield f"the card has no {field}"
    if not one_sentence(card.summary):
        yield f"the summary {NOT_ONE}"
    # an inherited docstring describes another one
    own_doc = cls.__dict__.get("__doc__") or ""
    if not own_doc or own_doc.startswith(f"{cls.__name__}("):
        yield "the class has no docstring of its own"
    if cls.__module__.startswith(f"{package}."):
        path, place = Path(inspect.getfile(cls)), getattr(card, folder)
        if (path.parent.name, path.stem) != (place, card.name):
            yield f"{path.parent.name}/{path.stem}.py holds {place}/{card.name}: the names must agree"


def options_are_declared(made: Method | Metric, besides: Iterable[str] = ()) -> None:
    """Check that every field is an option with a help text (`besides` are no options), and `options` has them all."""
    declared = options_of(type(made))
    bare = [f.name for f in fields(made) if f.name not in {*declared, *besides}]
    ensure(not bare, f"{', '.join(bare)} is no option(default, help)")
    for name, field in declared.items():
        ensure(len(field.metadata["help"]) > 3, f"the option {name} has no help text")
    ensure(set(made.options) == set(declared), "not all options are in `options`")


def wrong_values(field: Field[Any]) -> list[Any]:
    """Return values that an option must refuse: one below its least, one that is none of its choices."""
    least, choices = field.metadata["at_least"], field.metadata["choices"]
    return ([] if least is None else [least - 1]) + (["no such choice"] if choices else [])
