"""RISE: the average of random masks, weighted by the score of what each leaves visible."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Cost
from seewhy.core.maps import spread_over
from seewhy.methods.base import (
    BATCH_SIZE,
    Method,
    all_scores_equal,
    images_per_pass,
    method,
    option,
    repeat_target,
    upcast,
)
from seewhy.methods.perturbation.masks import RandomMasks, apply_masks, check_probability
from seewhy.targets import Target, TargetLike, as_probability


@method(
    name="rise",
    title="RISE",
    summary="How well the model does, on average, when a pixel is among those that it sees.",
    needs=set(),
    signed=False,
    class_specific=True,
    volumes=True,
    stochastic=True,
    citation="Petsiuk et al., RISE (BMVC 2018), sections 3.1 and 3.2",
    cost=lambda self: Cost.whole(self.n_masks),
)
class RISE(Method):
    """M_ij = 1 / (N · p) Σ_k f(x ⊙ M_k) M_k,ij.

    f is the probability of a class, as in the paper, or its logit; targets that are no class (a concept, a regression
    output, your function) give their own score. With scores below zero only the differences within a map mean
    something. Sums are streamed: memory grows with the image and `batch_size`, not with the number of masks.

    Where f is the same through all masks, the sum shows nothing but where masks happened to lie more often: the map is
    then that score everywhere, which it tends to as N grows, and is reported as constant.
    """

    n_masks: int = option(default=4000, help="number of random masks, each a forward pass", at_least=1, repeats=True)
    cells: int = option(default=7, help="cells along each side of a mask's grid", at_least=1)
    p: float = option(default=0.5, help="probability that a cell is visible")
    read_out: str = option(default="probability", help="what a class is worth", choices=("probability", "logit"))
    seed: int = option(default=0, help="seed of the masks")
    batch_size: int = option(default=32, help=BATCH_SIZE, at_least=1)

    def setup(self) -> None:
        """Check the probability."""
        check_probability(self.p)

    def _resolve_target(self, target: TargetLike, batch: int) -> Target:
        resolved = super()._resolve_target(target, batch)
        return as_probability(resolved, self.model) if self.read_out == "probability" else resolved

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        batch, size = len(x), tuple(x.shape[2:])
        masks = RandomMasks("rise", size, cells=self.cells, p=self.p, seed=self.seed, like=x)
        total = upcast(x.new_zeros(batch, *size))
        ends: list[Tensor] = []  # least and greatest score of each image so far
        for part in masks.pieces(self.n_masks, batch, images_per_pass(self.batch_size, x)):
            scores = repeat_target(target, batch, len(part)).score(self.model.run(apply_masks(x, part)))
            scores = upcast(scores).unflatten(0, (-1, batch))
            ends = list(torch.stack([*ends, *scores.aminmax(dim=0)]).aminmax(dim=0))
            for mask, score in zip(part, scores, strict=True):
                total += mask * spread_over(score, len(size))
        uninformative = all_scores_equal(torch.stack(ends, 1)) & (self.n_masks > 1)
        same, least = (spread_over(values, len(size)) for values in (uninformative, ends[0]))
        return torch.where(same, least, total / (self.n_masks * self.p))
