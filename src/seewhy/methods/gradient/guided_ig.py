"""Guided IG: integrated gradients along a path that first moves the pixels to which the score reacts least."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.errors import OptionError
from seewhy.methods.base import input_gradient, method, option
from seewhy.methods.baselines import BASELINE, check_baseline, starting_images
from seewhy.methods.gradient.channels import PixelShares
from seewhy.targets import Target


@method(
    name="guided_ig",
    title="Guided IG",
    summary="How much each pixel adds to the score on a path that avoids steep places, so that noise adds up less.",
    needs={Capability.GRADIENTS},
    signed=True,
    class_specific=True,
    citation="Kapishnikov et al., Guided Integrated Gradients (CVPR 2021), algorithm 1",
    cost=lambda self: Cost.whole(self.n_steps, self.n_steps),
)
class GuidedIG(PixelShares):
    """M_ij = Σ_c Σ_k (x_k+1 − x_k)_cij ∂f/∂x_cij (x_k), on a path x_0 = baseline … x_n = x that the gradient chooses.

    In each of n steps the L1 distance to x shrinks by 1/n of the whole. The features (pixel and channel) with the
    smallest |∂f/∂x| go first: `fraction` of all features at a time moves to x, then the next, until the distance is
    covered; the last group goes part of the way. 0.25 is the authors' code, 0.05 the setting of MA-GIG. Features whose
    |∂f/∂x| is equal (zero, where no neuron listens) move together. No feature may run ahead of, or lag behind, the
    straight line by more than `max_dist` of its way: 0 is the straight line (left-end integrated gradients), 1 leaves
    the path free.

    The map sums to f(x) − f(baseline) as n grows: with the authors' `max_dist` of 0.02 soon, with a free path slowly,
    because features are moved where their slope is smallest and the left end of each step is all that counts. Each
    image has a path of its own; the images of a batch walk side by side, one forward and backward a step.
    """

    n_steps: int = option(default=200, help="steps of the path", at_least=1, repeats=True)
    fraction: float = option(default=0.25, help="share of all features that moves together, above 0 to 1", at_least=0)
    max_dist: float = option(
        default=0.02, help="how far a feature may leave the straight line, as a share of its way", at_least=0
    )
    baseline: Any = option(default="black", help=f"where the path starts: {BASELINE}")

    def setup(self) -> None:
        """Check the baseline and the fraction."""
        check_baseline(self.baseline)
        if not 0 < self.fraction <= 1:
            raise OptionError(f"fraction={self.fraction!r} is not above 0 and at most 1; use for example 0.05")

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        # The distances left are differences of large sums.
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        start = starting_images(self.model, x, self.baseline).flatten(1).to(exact)
        way = x.flatten(1).to(exact) - start
        progress, total = torch.zeros_like(way), torch.zeros_like(way)
        for step in range(self.n_steps):
            point = (start + progress * way).to(x.dtype).view_as(x)
            grad = input_gradient(self.model, point, target).flatten(1).to(exact)
            advanced = advance(progress, way, grad.abs(), (step + 1) / self.n_steps, self.fraction, self.max_dist)
            total += (advanced - progress) * way * grad
            progress = advanced
        return self.per_pixel(total.view_as(x))


def advance(
    progress: Float[Tensor, "batch features"],
    way: Float[Tensor, "batch features"],
    steepness: Float[Tensor, "batch features"],
    alpha: float,
    fraction: float,
    max_dist: float,
) -> Float[Tensor, "batch features"]:
    """Return how far each feature is on its way (0 to 1) once the share `alpha` of the L1 distance is covered.

    One sort and one cumulative sum stand for the moves one after the other; nothing is read back from the device.

    Args:
        progress: How far each feature is now.
        way: x − baseline.
        steepness: |∂f/∂x|.
        alpha: The share of the whole distance to be covered.
        fraction: The share of all features that moves together.
        max_dist: How far a feature may leave the straight line, as a share of its way.
    """
    last = min(alpha + max_dist, 1.0)
    progress = progress.clamp(min=max(alpha - max_dist, 0.0))
    room = way.abs() * (last - progress).clamp(min=0)
    wanted = (way.abs() * (alpha - progress)).sum(1, keepdim=True).clamp(min=0)
    steepness, order = steepness.masked_fill(room <= 0, float("inf")).sort(dim=1, stable=True)
    ends = _group_ends(steepness, int(fraction * (way.shape[1] - 1)) + 1)
    covered = F.pad(room.gather(1, order).cumsum(1), (1, 0)).gather(1, F.pad(ends, (1, 0)))
    room_of_group = covered.diff(dim=1).clamp(min=torch.finfo(covered.dtype).tiny)
    share = ((wanted - covered[:, :-1]) / room_of_group).clamp(0, 1)
    ranks = torch.arange(way.shape[1], device=way.device).expand_as(order).contiguous()
    moved = share.gather(1, torch.searchsorted(ends, ranks, right=True))
    moved = torch.zeros_like(room).scatter(1, order, moved)
    return torch.where(room > 0, progress + moved * (last - progress), progress)


def _group_ends(ordered: Float[Tensor, "batch features"], size: int) -> Int[Tensor, "batch groups"]:
    """Return where each group ends in the sorted order: `size` features each, and those equal to its last."""
    count = ordered.shape[1]
    end = torch.zeros_like(ordered[:, :1], dtype=torch.long)
    ends = []
    for _ in range(-(-count // size)):
        last = ordered.gather(1, (end + size - 1).clamp(max=count - 1))
        end = torch.searchsorted(ordered, last, right=True)
        ends.append(end)
    return torch.cat(ends, 1)
