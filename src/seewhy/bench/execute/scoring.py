"""One metric on the maps of one method: one that fails costs the pictures that it fails on, and no other metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.bench.samples import Chunk
from seewhy.core.cards import Requirement
from seewhy.metrics import Measurement, Metric, MetricInputs

if TYPE_CHECKING:
    from seewhy.bench.setup import Stage, Tool


def measured(
    stage: Stage, chunk: Chunk, tool: Tool, metric: Metric, maps: Float[Tensor, "pairs rows cols"]
) -> Measurement:
    """A value for each entry of the chunk, NaN with the error as its reason where the metric fails.

    Raises:
        torch.OutOfMemoryError, MemoryError: a smaller batch may do.
    """
    try:
        return metric.measure(maps[: len(chunk.entries)], _given(chunk, tool, metric, maps))
    except Exception as error:
        if out_of_memory(error):
            raise
        if len(chunk.items) == 1:
            return _failed(len(chunk.entries), maps.device, f"{type(error).__name__}: {first_line(error)}")
    alone = []  # picture by picture, to find out which one it is
    for row, item in enumerate(chunk.items):
        own = [i for i, pair in enumerate(chunk.pairs) if pair[0] == row]
        alone.append(measured(stage, stage.chunk([item]), tool, metric, maps[own]))
    return joined(alone)


def _given(chunk: Chunk, tool: Tool, metric: Metric, maps: Tensor) -> MetricInputs:
    given = replace(chunk.given(tuple(maps.shape[1:])), method=tool.method)  # what it remembers stays shared
    if Requirement.CONTRAST in metric.card.needs:
        where = {pair: i for i, pair in enumerate(chunk.pairs)}
        none = torch.full_like(maps[0], torch.nan)
        given.contrast_maps = torch.stack([none if pair is None else maps[where[pair]] for pair in chunk.rival_pairs])
    return given


def _failed(entries: int, device: torch.device, why: str) -> Measurement:
    nothing = torch.full((entries,), math.nan, dtype=torch.float64, device=device)
    return Measurement(nothing, reasons=dict.fromkeys(range(entries), why))


def joined(pieces: Sequence[Measurement]) -> Measurement:
    """Several measurements as one; NaN for parts and curves that a failed piece does not have."""
    reasons, start = {}, 0
    for piece in pieces:
        reasons |= {start + i: why for i, why in piece.reasons.items()}
        start += len(piece.value)
    return Measurement(
        torch.cat([piece.value for piece in pieces]), _together(pieces, "parts"), _together(pieces, "curves"), reasons
    )


def _together(pieces: Sequence[Measurement], kind: str) -> dict[str, Tensor]:
    first = {name: values for piece in reversed(pieces) for name, values in getattr(piece, kind).items()}

    def part(piece: Measurement, name: str, like: Tensor) -> Tensor:
        return getattr(piece, kind).get(name, like.new_full((len(piece.value), *like.shape[1:]), math.nan))

    return {name: torch.cat([part(piece, name, like) for piece in pieces]) for name, like in first.items()}


def out_of_memory(error: Exception) -> bool:
    """Also as PyTorch says it on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def first_line(error: Exception) -> str:
    """What an error says, for a row."""
    return (str(error).splitlines() or [""])[0]
