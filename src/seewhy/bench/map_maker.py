"""Map makers of a benchmark: a method on a model, or a map that does not use the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.bench.manifest import describe_method, describe_reference_map
from seewhy.bench.reference_maps import ReferenceMap
from seewhy.bench.samples import SampleBatch
from seewhy.methods import Method


@dataclass(eq=False)
class MapMaker:
    """A configured method on a model, or a reference map.

    Attributes:
        label: Name in results.
        source: The method or the reference map.
        seed: The plan's seed, for reference maps.
    """

    label: str
    source: Method | ReferenceMap
    seed: int

    @property
    def method(self) -> Method | None:
        """The method; None for a reference map."""
        return self.source if isinstance(self.source, Method) else None

    @property
    def passes(self) -> int:
        """Forward passes per map."""
        return self.source.cost.forward if isinstance(self.source, Method) else 0

    def __call__(self, batch: SampleBatch) -> Float[Tensor, "pairs rows cols"]:
        """Compute a map for each pair of the batch; label-free maps are computed once for each image."""
        rows = [row for row, _ in batch.pairs]
        if isinstance(self.source, ReferenceMap):
            make = self.source.make
            maps = [make(self.seed, batch.samples[row][0], -1 if k is None else k) for row, k in batch.pairs]
            return torch.stack(maps).to(batch.x.device)
        if not self.source.card.class_specific:
            return self.source(batch.x)[rows]
        return self.source(batch.x, [k for _, k in batch.pairs], image_index=rows)

    def count_maps(self, batch: SampleBatch) -> int:
        """Return how many maps a call computes."""
        label_free = self.method is not None and not self.method.card.class_specific
        return len(batch.samples) if label_free else len(batch.pairs)

    def describe(self) -> dict[str, Any]:
        """Return the entry in the manifest."""
        if isinstance(self.source, ReferenceMap):
            return describe_reference_map(self.source)
        return describe_method(self.label, self.source)
