"""Several objects: does the map show each of them, and what does showing all cost it?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import Pixels, ascending, kth_largest, pixels, top_weights


@metric(
    name="multi_object",
    title="Multi-object recall",
    summary="Every object of the image is among the highest pixels.",
    needs={Requirement.OBJECTS},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Ours, from a question of the LaFAM paper (2024), arXiv:2407.06059",
    parts={"minimum": True, "union": True, "single": True},
    monotone_invariant=True,
)
class MultiObject(Metric):
    """Mean recall of the objects among the K highest pixels, K = pixels of all objects together.

    recall_i = share of object i's pixels among them. Parts: `minimum` = the least recall; `union` = Relevance Rank
    Accuracy against the union of all objects; `single` = its mean against each object alone. A map that shows the cat
    and the dog alike has a high `union` and a low `single`: what it loses there it loses for being label-free, not
    for being wrong. Ties count by share. Objects without a pixel that counts are left out; they may overlap.
    """

    absolute: bool = option(False, "look at |value|")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        objects = _objects(pixels(maps, given), given)
        return {"the masks of all objects are empty": ~objects.flatten(1).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Measurement:
        found = pixels(maps, given, self.absolute)
        objects = _objects(found, given)
        union, sizes = objects.any(1), objects.sum(2)
        ranked = found.ranked
        ordered = ascending(ranked)

        def top(k: Tensor) -> Float64[Tensor, "batch n"]:
            return top_weights(ranked, kth_largest(ordered, k), k)

        there = sizes > 0
        chosen = top(union.sum(1))
        divisor = sizes.clamp(min=1)  # an object that is not there is struck out by `there`

        def recalls(weights: Callable[[int], Tensor]) -> Float64[Tensor, "batch most"]:
            # one object after the other: all at once would be a float for each of their pixels
            found = [(weights(i) * mask).sum(1) for i, mask in enumerate(objects.unbind(1))]
            return torch.stack(found, 1) / divisor

        recall, alone = recalls(lambda i: chosen), recalls(lambda i: top(divisor[:, i]))
        parts = {
            "minimum": recall.masked_fill(~there, torch.inf).amin(1),
            "union": (chosen * union).sum(1) / union.sum(1),
            "single": _mean(alone, there),
        }
        return Measurement(_mean(recall, there), parts)


def _objects(found: Pixels, given: MetricInputs) -> Bool[Tensor, "batch most n"]:
    """The pixels of each object that count; missing objects are empty."""
    stacked = torch.nn.utils.rnn.pad_sequence([o.flatten(1) for o in given.objects], batch_first=True)
    return stacked.to(found.valid.device) & found.valid[:, None]


def _mean(values: Float64[Tensor, "batch most"], there: Bool[Tensor, "batch most"]) -> Float64[Tensor, "batch"]:
    return (values * there).sum(1) / there.sum(1)
