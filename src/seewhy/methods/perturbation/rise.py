"""RISE: the average of random masks, weighted by how well the model does when it sees through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import BATCH_SIZE, Method, all_scores_equal, method, option, repeat_target, upcast
from seewhy.methods.perturbation.masks import RandomMasks, check_chance, seen
from seewhy.models.adapter import VisionModel
from seewhy.targets import ClassTarget, Output, PerImage, Rank, Target, TargetLike


@method(
    name="rise",
    title="RISE",
    summary="How well the model does, on average, when a pixel is among those that it sees.",
    needs=set(),
    signed=False,
    class_specific=True,
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
    p: float = option(default=0.5, help="the chance that a cell is seen")
    read_out: str = option(default="probability", help="what a class is worth", choices=("probability", "logit"))
    seed: int = option(default=0, help="seed of the masks")
    batch_size: int = option(default=32, help=BATCH_SIZE, at_least=1)

    def setup(self) -> None:
        check_chance(self.p)

    def _resolve_target(self, target: TargetLike, batch: int) -> Target:
        target = super()._resolve_target(target, batch)
        return as_probability(target, self.model) if self.read_out == "probability" else target

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        batch, size = len(x), (x.shape[-2], x.shape[-1])
        masks = RandomMasks("rise", size, cells=self.cells, p=self.p, seed=self.seed, like=x)
        total = upcast(x.new_zeros(batch, *size))
        ends: list[Tensor] = []
        for some in masks.pieces(self.n_masks, batch, self.batch_size):
            scores = repeat_target(target, batch, len(some)).score(self.model.run(seen(x, some)))
            scores = upcast(scores).unflatten(0, (-1, batch))
            ends = list(torch.stack([*ends, *scores.aminmax(dim=0)]).aminmax(dim=0))
            for mask, score in zip(some, scores, strict=True):
                total += mask * score[:, None, None]
        idle = all_scores_equal(torch.stack(ends, 1))[:, None, None] & (self.n_masks > 1)
        return torch.where(idle, ends[0][:, None, None], total / (self.n_masks * self.p))


@dataclass(frozen=True)
class Probability(Target):
    """The probability of a class instead of its logit."""

    of: Target
    model: VisionModel
    kind = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        return self.of.score(Output(logits=self.model.probabilities(upcast(output.require(Capability.LOGITS)))))

    def at(self, rows: Sequence[int]) -> Target:
        return Probability(self.of.at(rows), self.model)

    def fixed(self, output: Output) -> Target:
        return Probability(self.of.fixed(output), self.model)

    @property
    def depends_on_output(self) -> bool:
        return self.of.depends_on_output


def as_probability(target: Target, model: VisionModel) -> Target:
    """The target with each class in it scored by its probability; other kinds as they are."""
    if isinstance(target, PerImage):
        return PerImage(tuple(as_probability(t, model) for t in target.targets))
    is_class = isinstance(target, Rank) or (isinstance(target, ClassTarget) and target.kind == "class")
    return Probability(target, model) if is_class else target
