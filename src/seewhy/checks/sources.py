"""Checks of model sources: that `load_model`, `list_models` and `wrap` can use what a `ModelSource` offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import SkipTest

from torch import nn

from seewhy.checks.core import Check, ensure, entered, expect, named, run_all
from seewhy.errors import MissingExtraError, SeewhyError
from seewhy.models.adapter import VisionModel
from seewhy.models.sources.base import HasPreprocess, HasTower, ModelSource, missing_parts
from seewhy.models.structure import Structure

SOURCE_CHECKS: list[tuple[str, Check]] = []
"""Every check of a model source as (name, check), filled by the decorator; `check(source, example=None)`."""

NO_MODEL = "no such model"
"""A name that no library has (a hub would refuse it without asking the network)."""


def source_check(fn: Callable[[ModelSource, str | None], None]) -> Check:
    """Make a public check of a function of a source and an example, and put it on `SOURCE_CHECKS`."""

    def check(source: ModelSource, example: str | None = None) -> None:
        with named(_name_of(source), fn.__name__):
            fn(source, example)

    return entered(SOURCE_CHECKS, fn, check)


def check_source(source: ModelSource, example: str | None = None) -> dict[str, str]:
    """Run every check of a model source.

    Args:
        source: A module, or any object, with the parts of `seewhy.models.ModelSource`.
        example: The name (without the prefix) of a small model, which is loaded with random weights; None: the
            checks that need a model do not apply. `check_model` checks the model itself.

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: A check fails; the first, with the others as its notes.
    """
    check_source_parts(source)  # without its parts, the other checks would only repeat what is missing
    return run_all(SOURCE_CHECKS, _name_of(source), source, example)


def _name_of(source: Any) -> str:
    return getattr(source, "__name__", None) or type(source).__name__


def _names(source: ModelSource, pattern: str = "*") -> list[str]:
    try:
        return source.names(pattern)
    except MissingExtraError as error:
        raise SkipTest(str(error)) from None


def _example(source: ModelSource, example: str | None) -> VisionModel:
    if example is None:
        raise SkipTest("no example was given")
    try:
        return source.load(example, pretrained=False)
    except MissingExtraError as error:
        raise SkipTest(str(error)) from None


@source_check
def check_source_parts(source: ModelSource, example: str | None) -> None:
    """Check that the constants and functions of `ModelSource` are there, and can be called as seewhy calls them."""
    problems = missing_parts(source)
    ensure(not problems, "; ".join(problems))
    ensure(
        all(isinstance(name, str) for name in source.DISTRIBUTIONS), "DISTRIBUTIONS must hold names as pip knows them"
    )
    ensure(
        source.PREFIX == "" or source.PREFIX.endswith("/"), f"PREFIX must be empty or end in '/', got {source.PREFIX!r}"
    )
    ensure(source.PACKAGE, "PACKAGE must name the package whose modules it recognizes")


@source_check
def check_source_names(source: ModelSource, example: str | None) -> None:
    """Check that `names` lists strings without the prefix, filtered by a shell pattern."""
    names = _names(source)
    ensure(names and all(isinstance(name, str) for name in names), "names() must return a list of strings, not empty")
    ensure(len(set(names)) == len(names), "names() returns a name twice")
    prefixed = [name for name in names if source.PREFIX and name.startswith(source.PREFIX)]
    ensure(not prefixed, f"names() must leave out the prefix {source.PREFIX!r}, got {prefixed[:1]}")
    ensure(not _names(source, NO_MODEL), f"names({NO_MODEL!r}) must be empty: the argument is a shell pattern")
    found = _names(source, names[0])
    ensure(names[0] in found and len(found) < max(2, len(names)), f"names({names[0]!r}) must return that name only")


@source_check
def check_foreign_module(source: ModelSource, example: str | None) -> None:
    """Check that `recognizes` tells foreign modules apart, and raises nothing."""
    for module in (nn.Linear(2, 2), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())):
        ensure(source.recognizes(module) is False, f"recognizes must be False for torch's {type(module).__name__}")


@source_check
def check_unknown_model(source: ModelSource, example: str | None) -> None:
    """Check that `load` refuses a name that it does not know with an error of seewhy's."""
    with expect(SeewhyError, f"load({NO_MODEL!r})"):
        source.load(NO_MODEL)


@source_check
def check_loaded_model(source: ModelSource, example: str | None) -> None:
    """Check that a loaded model is in eval mode, is recognized, and has the structure that `structure` tells."""
    model = _example(source, example)
    ensure(isinstance(model, VisionModel), f"load must return a VisionModel, got {type(model).__name__}")
    ensure(not model.module.training, "load must return the model in eval mode")
    ensure(source.recognizes(model.module), "recognizes must be True for the module of a model that it loads")
    structure = source.structure(model.module)
    ensure(isinstance(structure, Structure), f"structure must return a Structure, got {type(structure).__name__}")
    # reading functions are made anew each time, so the parts that can be compared are
    for part in ("stages", "cam_layer", "blocks", "prefix_tokens", "head", "patch_size"):
        ensure(getattr(structure, part) == getattr(model.structure, part), f"structure and load differ in {part}")


@source_check
def check_source_extras(source: ModelSource, example: str | None) -> None:
    """Check that `preprocess` gives a function of images and `tower` leaves an image side alone, where they exist."""
    model = _example(source, example)
    if isinstance(source, HasPreprocess):
        ensure(callable(source.preprocess(model.module)), "preprocess must return a function of a PIL image")
    if isinstance(source, HasTower):
        ensure(
            source.tower(model.module) is model.module, "tower must return the module of a model that it loads as it is"
        )
