"""Features of a transformer at several levels, from one forward that stops at the deepest."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress

from jaxtyping import Float
from torch import Tensor

from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import Stop, collecting, input_hooked

Levels = dict[int, Float[Tensor, "_ _ _ _"]]
"""Patch tokens as (B, C, rows, cols) by level: 0 is what enters the first block, i what block i gives (from 1)."""


def read_levels(model: VisionModel, x: Float[Tensor, "batch channels height width"], wanted: Iterable[int]) -> Levels:
    """Return the features of some levels, in the caller's grad mode; nothing above the deepest runs.

    Called inside `untouched(model.module)`, or while a training run holds the model.

    Args:
        model: A model with transformer blocks.
        x: The batch.
        wanted: The levels; none of them: no forward at all.
    """
    levels = sorted(set(wanted))
    if not levels:
        return {}
    blocks = model.structure.blocks
    names = {level: blocks[max(level, 1) - 1].name for level in levels}
    modules = {names[level]: model.submodule(names[level]) for level in levels if level}
    stem: list[Tensor] = []

    def keep(value: Tensor) -> None:
        stem.append(value.clone())  # what follows may write into it
        if not modules:
            raise Stop

    with ExitStack() as stack:
        stack.enter_context(model.shape_error_context(x))
        stack.enter_context(suppress(Stop))
        found = stack.enter_context(collecting(modules)) if modules else {}
        if levels[0] == 0:
            stack.enter_context(input_hooked(model.submodule(blocks[0].name), keep))
        model.module(x, **model.structure.call)
    values = {level: found[names[level]] if level else stem[0] for level in levels}
    size = x.shape[-2:]
    return {level: model.to_grid(value, model.layer(names[level]), size) for level, value in values.items()}
