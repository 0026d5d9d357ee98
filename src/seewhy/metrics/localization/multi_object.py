"""Several objects: does the map show each of them, and what does showing all cost it?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.inputs import required
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
    for being wrong. Ties count by share. Objects without a pixel that counts are left out; objects may overlap.
    """

    absolute: bool = option(default=False, help="look at |value|")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the images whose masks are all empty."""
        objects = _objects(pixels(maps, inputs), inputs)
        return {"the masks of all objects are empty": ~objects.flatten(1).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the recalls."""
        flat = pixels(maps, inputs, self.absolute)
        objects = _objects(flat, inputs)
        union, sizes = objects.any(1), objects.sum(2)
        present = sizes > 0
        divisor = sizes.clamp(min=1)  # the recall of an object without pixels is masked by `present`
        ranked = flat.ranked
        ordered = ascending(ranked)

        def top(k: Tensor) -> Float64[Tensor, "batch n"]:
            return top_weights(ranked, kth_largest(ordered, k), k)

        # one object after the other: all at once would be a float for each of their pixels
        top_of_union = top(union.sum(1))
        masks = objects.unbind(1)
        recall = torch.stack([(top_of_union * mask).sum(1) for mask in masks], 1) / divisor
        alone = torch.stack([(top(divisor[:, i]) * mask).sum(1) for i, mask in enumerate(masks)], 1) / divisor
        parts = {
            "minimum": recall.masked_fill(~present, torch.inf).amin(1),
            "union": (top_of_union * union).sum(1) / union.sum(1),
            "single": _mean(alone, present),
        }
        return Measurement(_mean(recall, present), parts)


def _objects(flat: Pixels, inputs: MetricInputs) -> Bool[Tensor, "batch most n"]:
    """Return the pixels of each object that count; missing objects are empty."""
    rows = [masks.flatten(1) for masks in required(inputs.objects, "objects")]
    stacked = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return stacked.to(flat.valid.device) & flat.valid[:, None]


def _mean(values: Float64[Tensor, "batch most"], present: Bool[Tensor, "batch most"]) -> Float64[Tensor, "batch"]:
    return (values * present).sum(1) / present.sum(1)
