"""Targets of object detectors: a box with its class, found again in each new answer of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.boxes import box_iou
from seewhy.core.cards import Capability
from seewhy.errors import TargetError
from seewhy.targets.base import Detections, Output, Target
from seewhy.targets.places import PlaceTarget


@dataclass(frozen=True, eq=False)
class Detection(PlaceTarget):
    """The score of the detection that matches a box: max over detections of IoU · score (D-RISE, Petsiuk et al. 2021).

    D-RISE also multiplies by the cosine of the class distributions; here the score of the box's class stands for it.
    The IoU chooses and weighs the match, and is not differentiated.

    Attributes:
        index: One class number, or one for each image; empty: chosen by `rank`.
        box: (4,) for all images or (B, 4): left, top, right, bottom as fractions of the input; None: the model's own.
        rank: Without a box: 1 for the most confident detection (of the class), 2 for the next.
    """

    index: tuple[int, ...] = ()
    box: Float[Tensor, "..."] | None = None
    rank: int = 1
    kind = "detection"
    need = Capability.DETECTIONS

    def __post_init__(self) -> None:
        if self.box is None:
            return
        if self.box.shape[-1:] != (4,) or self.box.ndim not in (1, 2) or not self.index:
            raise TargetError("a detection is a class and a box (left, top, right, bottom), as fractions of the image")
        if bool((self.box[..., 2:] <= self.box[..., :2]).any()) or bool((self.box.abs() > 2).any()):
            raise TargetError(
                f"{self.box.tolist()} is not a box; give left, top, right, bottom as fractions of width and height"
            )

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Find each image's box again and return IoU · score of the best match; 0 where nothing is detected."""
        found = _required(output)
        if self.box is None:
            return self.fixed(output).score(output)
        scores = found.of_class(torch.tensor(self.index, device=found.boxes.device).expand(len(found.boxes)))
        if not scores.shape[1]:
            return scores.sum(1)
        box = self.box.to(found.boxes).expand(len(found.boxes), 4)
        with torch.no_grad():
            overlap = box_iou(box.double(), found.boxes.double()).to(scores.dtype)
            best = (overlap * scores).argmax(1, keepdim=True)
        return (overlap * scores).gather(1, best)[:, 0]

    def at(self, rows: Sequence[int]) -> Target:
        """Return the boxes of these rows."""
        box = self.box if self.box is None or self.box.ndim == 1 else self.box[list(rows)]
        return replace(self, index=self.classes_at(rows), box=box)

    def fixed(self, output: Output) -> Target:
        """Return the box and class of the detection that has the rank.

        Raises:
            TargetError: An image has fewer detections.
        """
        found = _required(output)
        if self.box is not None:
            return self
        batch = len(found.boxes)
        named = torch.tensor(self.index, device=found.boxes.device).expand(batch) if self.index else None
        if named is not None:
            scores = found.of_class(named).detach()
        else:
            scores = found.scores.detach().sum(2) if 0 in found.scores.shape else found.scores.detach().amax(2)
        scores = scores * (found.boxes[..., 2:] > found.boxes[..., :2]).all(2)  # a box without area matches nothing
        for row, values in enumerate(scores):
            count = int((values > 0).sum())
            if count < self.rank:
                what = f"class {self.class_at(row)}" if self.index else "something"
                raise TargetError(
                    f"the model detects {what} {count} times in image {row}, so there is no detection {self.rank}; "
                    "give a box, another class, or lower the model's own score threshold"
                )
        place = scores.topk(self.rank, dim=1).indices[:, -1]
        rows = torch.arange(batch, device=place.device)
        labels = found.scores[rows, place].argmax(1) if named is None else named
        return Detection(tuple(labels.tolist()), found.boxes[rows, place].detach())

    @property
    def depends_on_output(self) -> bool:
        """Whether the box is still open."""
        return self.box is None

    def check(self, batch: int, classes: int | None) -> None:
        """Check that there is one class and box, or one for each image."""
        self.check_counts(batch, self.box, 1, "boxes")
        if self.rank < 1:
            raise TargetError(f"rank {self.rank} is out of range; count from 1")

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Describe class and box of image `row`."""
        described = super().describe(row, names)
        if self.box is not None:
            described["box"] = (self.box if self.box.ndim == 1 else self.box[row % len(self.box)]).tolist()
        return described


def _required(output: Output) -> Detections:
    if output.detections is None:
        output.require(Capability.DETECTIONS)  # raises
        raise AssertionError("detections without scores")
    return output.detections
