"""Targets of models that answer for each pixel: a class, summed over a region of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.errors import TargetError
from seewhy.targets.base import Output, Target
from seewhy.targets.places import PlaceTarget


def labeled(segmentation: Float[Tensor, "batch classes rows cols"]) -> Bool[Tensor, "batch classes rows cols"]:
    """Tell which class each pixel is given: the largest score; of a single class where its score is positive."""
    if segmentation.shape[1] == 1:
        return segmentation > 0
    best = segmentation.argmax(1, keepdim=True)
    return torch.zeros_like(segmentation, dtype=torch.bool).scatter_(1, best, True)


@dataclass(frozen=True, eq=False)
class Region(PlaceTarget):
    """A class of a segmentation model, its scores summed over a region (Seg-Grad-CAM, Vinogradova et al. 2020, eq. 1).

    Attributes:
        index: One class number, or one for each image; empty: chosen by `rank`.
        mask: The region, (rows, cols) for all images or (B, rows, cols), of any size; None: where the model itself
            sees the class.
        rank: Without an index: 1 for the class that covers most of the image, 2 for the next.
    """

    index: tuple[int, ...] = ()
    mask: Bool[Tensor, "..."] | None = None
    rank: int = 1
    kind = "region"
    need = Capability.SEGMENTATION

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask.ndim not in (2, 3):
            raise TargetError(f"a mask has shape (rows, cols) or (images, rows, cols), not {tuple(self.mask.shape)}")
        if self.mask is not None and not self.mask.bool().any():
            raise TargetError("the mask is empty; mark the region whose class is to be explained")

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Sum the scores of each image's class over its region."""
        scores = output.require(Capability.SEGMENTATION)
        index = self._classes(scores)
        chosen = scores[torch.arange(len(scores), device=scores.device), index]
        return (chosen * self._region(scores, index)).sum((1, 2))

    def _classes(self, scores: Tensor) -> Tensor:
        if self.index:
            self.check(len(scores), scores.shape[1])
            return torch.tensor(self.index, device=scores.device).expand(len(scores))
        self.check(len(scores), scores.shape[1])
        areas = labeled(scores.detach()).sum((2, 3))
        return areas.topk(self.rank, dim=1).indices[:, -1]

    def _region(self, scores: Tensor, index: Tensor) -> Tensor:
        if self.mask is None:
            return labeled(scores.detach())[torch.arange(len(scores), device=scores.device), index]
        mask = self.mask.to(scores.device, torch.float32).expand(len(scores), *self.mask.shape[-2:])
        return F.interpolate(mask[:, None], scores.shape[-2:], mode="nearest-exact")[:, 0].to(scores.dtype)

    def at(self, rows: Sequence[int]) -> Target:
        """Return the regions of these rows."""
        mask = self.mask if self.mask is None or self.mask.ndim == 2 else self.mask[list(rows)]
        return replace(self, index=self.classes_at(rows), mask=mask)

    def fixed(self, output: Output) -> Target:
        """Return the class and the region that the model sees in the image as it is.

        Raises:
            TargetError: The model sees the class nowhere in one of the images.
        """
        scores = output.require(Capability.SEGMENTATION)
        index = self._classes(scores)
        region = self._region(scores, index) > 0
        for row, each in enumerate(region):
            if not each.any():
                raise TargetError(
                    f"the model sees no pixel of class {int(index[row])} in image {row}; give a mask, or leave out "
                    "the target for the class that covers most"
                )
        return replace(self, index=tuple(index.tolist()), mask=region)

    @property
    def depends_on_output(self) -> bool:
        """Whether the class or the region is still open."""
        return not self.index or self.mask is None

    def check(self, batch: int, classes: int | None) -> None:
        """Check that there is one class and one mask, or one for each image, and that the model has the classes."""
        self.check_counts(batch, self.mask, 2, "masks")
        for number in self.index or (self.rank - 1,):
            if number < 0 or (classes is not None and number >= classes):
                raise TargetError(f"class {number} is out of range; this model has {classes}")

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Describe the class of image `row` and how many cells its region has."""
        described = super().describe(row, names)
        if self.mask is not None:
            described["cells"] = int((self.mask if self.mask.ndim == 2 else self.mask[row % len(self.mask)]).sum())
        return described
