"""Choice of the object: of several objects, does the map's maximum lie in the right one?"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric
from seewhy.metrics.inputs import required
from seewhy.metrics.masked_values import pixels


@metric(
    name="object_choice",
    title="Choice of the object",
    summary="The map's maximum lies in the object of the explained class, and not in another one.",
    needs={Requirement.MASK, Requirement.OBJECTS},
    bounds=(-1.0, 1.0),
    higher_is_better=True,
    citation="Ours; the Pointing Game of each object, one minus the others",
    parts={"right": True, "wrong": False, "mass_right": True, "mass_wrong": False},
)
class ObjectChoice(Metric):
    """`right` − `wrong`: the share of the map's maxima in the object of its class, less that in all other objects.

    A method tells classes apart where the interval of the mean lies above 0. A map that shows all objects alike is near
    0, or below it, since the others together are larger. `mass_right` and `mass_wrong` are the shares of the positive
    values there; 0 of a map without any. A constant map has the shares of the areas.
    """

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the shares of the maxima and of the positive values in the right object and in the others."""
        flat = pixels(maps, inputs)
        right = flat.inside(inputs.masks)
        others = flat.inside(_all_objects(maps, inputs)) & ~right
        top = flat.ranked == flat.ranked.amax(1, keepdim=True)
        mass = flat.positive
        total = mass.sum(1).clamp(min=torch.finfo(torch.float64).tiny)
        parts = {}
        for name, where in (("right", right), ("wrong", others)):
            parts[name] = (top & where).sum(1).double() / top.sum(1)
            parts[f"mass_{name}"] = (mass * where).sum(1) / total
        return Measurement(parts["right"] - parts["wrong"], {name: parts[name] for name in self.card.parts})


def _all_objects(maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Bool[Tensor, "batch rows cols"]:
    """Return the union of all objects of each image."""
    return torch.stack([masks.any(0) for masks in required(inputs.objects, "objects")]).to(maps.device)
