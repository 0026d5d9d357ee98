"""Base of RELAX and U-RELAX: mean and variance of the similarity under random masks, for each pixel, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.maps import spread_over, upcast
from seewhy.methods.base import BATCH_SIZE, Method, images_per_pass, option
from seewhy.methods.perturbation.masks import RandomMasks, apply_masks, check_probability


class WeightedMoments:
    """Weighted mean and variance at each pixel of scores that come one by one (West 1979, Welford for weights).

    Three numbers for each pixel, however many scores come; no differences of large sums. The weight of each score is
    a mask, the same for the whole batch.
    """

    def __init__(self, batch: int, size: tuple[int, ...], like: Tensor) -> None:
        self._axes = len(size)
        self._weight = upcast(like.new_zeros(1, *size))
        self._mean = upcast(like.new_zeros(batch, *size))
        self._spread = torch.zeros_like(self._mean)
        # of pixels that no mask ever shows: all scores count the same
        self._all, self._n = spread_over(upcast(like.new_zeros(batch)), self._axes), 0
        self._all_spread = torch.zeros_like(self._all)

    def add(self, mask: Float[Tensor, "*grid"], score: Float[Tensor, "batch"]) -> None:
        """Add one mask, and the score of each image through it."""
        score = spread_over(score, self._axes)
        self._weight += mask
        before = score - self._mean
        self._mean += torch.where(mask > 0, mask / self._weight, 0) * before
        self._spread += mask * before * (score - self._mean)
        self._n += 1
        before = score - self._all
        self._all += before / self._n
        self._all_spread += before * (score - self._all)

    @property
    def weight(self) -> Float[Tensor, "1 *grid"]:
        """Σ M at each pixel."""
        return self._weight

    def result(self) -> tuple[Float[Tensor, "batch *grid"], Float[Tensor, "batch *grid"]]:
        """Return mean Σ M s / Σ M, and variance Σ M (s − mean)² / Σ M; where Σ M = 0, those of all scores."""
        shown = self._weight > 0
        return (
            torch.where(shown, self._mean, self._all),
            torch.where(shown, self._spread / self._weight, self._all_spread / self._n),
        )


@dataclass(kw_only=True, eq=False)
class SimilarityUnderMasks(Method):
    """Options and the one pass of RELAX."""

    n_masks: int = option(default=3000, help="number of random masks, each a forward pass", at_least=1, repeats=True)
    masks: str = option(
        default="relax",
        help="soft masks that shift by up to 3 pixels (the paper), or hard cells instead",
        choices=("relax", "nearest"),
    )
    cells: int = option(default=7, help="cells along each side of a mask's grid", at_least=1)
    p: float = option(default=0.5, help="probability that a cell is visible")
    seed: int = option(default=0, help="seed of the masks")
    batch_size: int = option(default=32, help=BATCH_SIZE, at_least=1)

    def setup(self) -> None:
        """Check the probability."""
        check_probability(self.p)

    def moments(self, x: Tensor) -> Float[Tensor, "batch three *grid"]:
        """Compute importance R and uncertainty U of each image, and Σ M."""
        batch, size = len(x), tuple(x.shape[2:])
        masks = RandomMasks(self.masks, size, cells=self.cells, p=self.p, seed=self.seed, like=x)
        whole = self._embedding(x)
        moments = WeightedMoments(batch, size, like=x)
        for part in masks.pieces(self.n_masks, batch, images_per_pass(self.batch_size, x)):
            embeddings = self._embedding(apply_masks(x, part)).unflatten(0, (-1, batch))
            for mask, distances in zip(part, distance(embeddings, whole), strict=True):
                moments.add(mask, distances)
        mean, variance = moments.result()
        return torch.stack([1 - mean, variance, moments.weight.expand_as(mean)], 1)

    def _embedding(self, x: Tensor) -> Float[Tensor, "batch dim"]:
        return upcast(self.model.run(x).require(Capability.EMBEDDING))


def distance(a: Float[Tensor, "*many dim"], b: Float[Tensor, "*some dim"]) -> Float[Tensor, "*many"]:
    """Compute 1 − cos(a, b) = ½ |a/|a| − b/|b||², which float32 can hold where 1 − (almost 1) is all rounding.

    An embedding of zeros has no direction: 1, as for torch's cosine similarity of 0.
    """
    apart = (F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).square().sum(-1) / 2
    return torch.where((a == 0).all(-1) | (b == 0).all(-1), 1, apart)
