"""One metric on the maps of one method; a failure costs the images that it happens on, and no other metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.bench.map_maker import MapMaker
from seewhy.bench.samples import SampleBatch
from seewhy.bench.setup import ModelSetup
from seewhy.core.cards import Requirement
from seewhy.core.io import first_line
from seewhy.metrics import Measurement, Metric, MetricInputs


def measure(
    setup: ModelSetup,
    batch: SampleBatch,
    map_maker: MapMaker,
    metric: Metric,
    maps: Float[Tensor, "pairs rows cols"],
) -> Measurement:
    """Score the maps of a batch by a metric; where it fails, again image by image.

    Args:
        setup: The model's setup.
        batch: The samples.
        map_maker: What computed the maps.
        metric: The metric.
        maps: A map for each pair of the batch, at the size at which the metric compares.

    Returns:
        A value for each target of the batch; NaN with the error as its reason where the metric fails.

    Raises:
        torch.OutOfMemoryError: When memory does not suffice; a smaller batch may do.
        MemoryError: Likewise.
    """
    try:
        return metric.measure(maps[: len(batch.targets)], _inputs_for(batch, map_maker, metric, maps))
    except Exception as error:
        if out_of_memory(error):
            raise
        if len(batch.samples) == 1:
            return _failed(len(batch.targets), maps.device, describe_error(error))
    one_by_one = []
    for row, sample in enumerate(batch.samples):
        of_image = [i for i, pair in enumerate(batch.pairs) if pair[0] == row]
        one_by_one.append(measure(setup, setup.batch([sample]), map_maker, metric, maps[of_image]))
    return concatenate(one_by_one)


def _inputs_for(batch: SampleBatch, map_maker: MapMaker, metric: Metric, maps: Tensor) -> MetricInputs:
    rows, cols = maps.shape[1:]
    inputs = replace(batch.metric_inputs((rows, cols)), method=map_maker.method)  # the cache stays shared
    if Requirement.CONTRAST in metric.card.needs:
        position = {pair: i for i, pair in enumerate(batch.pairs)}
        no_map = torch.full_like(maps[0], torch.nan)
        contrasts = [no_map if pair is None else maps[position[pair]] for pair in batch.contrasts]
        inputs.contrast_maps = torch.stack(contrasts)
    return inputs


def _failed(targets: int, device: torch.device, reason: str) -> Measurement:
    values = torch.full((targets,), math.nan, dtype=torch.float64, device=device)
    return Measurement(values, reasons=dict.fromkeys(range(targets), reason))


def concatenate(pieces: Sequence[Measurement]) -> Measurement:
    """Join measurements; NaN for parts and curves that a failed piece does not have."""
    reasons: dict[int, str] = {}
    start = 0
    for piece in pieces:
        reasons |= {start + i: reason for i, reason in piece.reasons.items()}
        start += len(piece.value)
    values = torch.cat([piece.value for piece in pieces])
    return Measurement(values, _concatenate_field(pieces, "parts"), _concatenate_field(pieces, "curves"), reasons)


def _concatenate_field(pieces: Sequence[Measurement], field: Literal["parts", "curves"]) -> dict[str, Tensor]:
    examples: dict[str, Tensor] = {}
    for piece in reversed(pieces):
        examples |= getattr(piece, field)

    def part(piece: Measurement, name: str) -> Tensor:
        missing = examples[name].new_full((len(piece.value), *examples[name].shape[1:]), math.nan)
        return getattr(piece, field).get(name, missing)

    return {name: torch.cat([part(piece, name) for piece in pieces]) for name in examples}


def out_of_memory(error: Exception) -> bool:
    """Tell whether memory did not suffice, also as PyTorch says it on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def describe_error(error: Exception) -> str:
    """Return the type and the first line of an error, for a row."""
    return f"{type(error).__name__}: {first_line(error)}"
