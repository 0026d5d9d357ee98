"""The contract of targets, and the model output that they read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.errors import TargetError


@dataclass(frozen=True)
class Detections:
    """What a detector answers; rows of score 0 fill up images with fewer boxes.

    Attributes:
        boxes: (B, boxes, 4): left, top, right, bottom as fractions of the input's width and height.
        scores: (B, boxes, classes), in [0, 1].
    """

    boxes: Float[Tensor, "batch boxes 4"]
    scores: Float[Tensor, "batch boxes classes"]

    def of_class(self, index: Tensor) -> Float[Tensor, "batch boxes"]:
        """Return the score of one class for each image; 0 for a class that no box has.

        Args:
            index: Class numbers, (B,).
        """
        known = self.scores.shape[2]
        if not known:
            return self.scores.new_zeros(self.scores.shape[:2])
        columns = index.clamp(max=known - 1)[:, None, None].expand(-1, self.scores.shape[1], 1)
        return self.scores.gather(2, columns)[..., 0] * (index < known)[:, None]


@dataclass(frozen=True)
class Output:
    """The result of one forward pass.

    Attributes:
        logits: Class scores, (B, classes), if the model has any.
        embedding: What the head reads, (B, dim), if the model has one.
        segmentation: Class scores for each pixel or cell, (B, classes, rows, cols), of a segmentation model.
        detections: The boxes of a detector.
    """

    logits: Float[Tensor, "batch classes"] | None = None
    embedding: Float[Tensor, "batch dim"] | None = None
    segmentation: Float[Tensor, "batch classes rows cols"] | None = None
    detections: Detections | None = None

    def row(self, i: int) -> Output:
        """Return the output of image `i`, as a batch of one."""
        return self.map(lambda value: value[i : i + 1])

    def map(self, function: Callable[[Tensor], Tensor]) -> Output:
        """Return the output with every tensor in it, each a batch, replaced by what `function` makes of it."""

        def of(value: Tensor | None) -> Tensor | None:
            return None if value is None else function(value)

        boxes = self.detections and Detections(function(self.detections.boxes), function(self.detections.scores))
        return Output(of(self.logits), of(self.embedding), of(self.segmentation), boxes)

    @property
    def tensors(self) -> list[Tensor]:
        """All that the model answers."""
        boxes = [self.detections.boxes, self.detections.scores] if self.detections else []
        return [t for t in (self.logits, self.embedding, self.segmentation, *boxes) if t is not None]

    def require(self, need: Capability) -> Tensor:
        """Return the logits, the embedding, the segmentation or the scores of detections.

        Raises:
            TargetError: The model has none.
        """
        values: dict[Capability, Tensor | None] = {
            Capability.LOGITS: self.logits,
            Capability.EMBEDDING: self.embedding,
            Capability.SEGMENTATION: self.segmentation,
            Capability.DETECTIONS: self.detections.scores if self.detections else None,
        }
        value = values[need]
        if value is not None:
            return value
        if need == Capability.LOGITS:
            advice = (
                "use an embedding target (embedding-sum, a concept), or wrap(module, output='logits') if it returns "
                "class scores"
            )
        else:
            advice = "use a class target instead"
        raise TargetError(f"this model gives no {need}; {advice}")


class Target(ABC):
    """One number per image, to be explained.

    Attributes:
        kind: A word for manifests and messages.
        need: The part of the output that it reads.
    """

    kind: str = "target"
    need: Capability = Capability.LOGITS

    @abstractmethod
    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Compute the number of each image of the batch."""

    def at(self, rows: Sequence[int]) -> Target:
        """Return the target of a batch that is made of these rows of the original batch (rows may repeat)."""
        return self

    def of_sources(self, sources: Sequence[str], names: Sequence[str] | None) -> Target:
        """Settle everything that depends on where the images come from.

        Args:
            sources: The path of each image of the batch.
            names: The model's class names.

        Raises:
            TargetError: The paths do not tell the target.
        """
        return self

    def fixed(self, output: Output) -> Target:
        """Settle everything that depends on the model's own answer (top-1 becomes a class)."""
        return self

    @property
    def depends_on_output(self) -> bool:
        """Whether `fixed` needs a forward pass."""
        return False

    def check(self, batch: int, classes: int | None) -> None:  # noqa: B027 (most targets fit any batch)
        """Check that the target fits a batch of this size and a head of this width.

        Raises:
            TargetError: It does not.
        """

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name the target of image `row` for people."""
        return self.kind

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Describe the target of image `row` in values that JSON knows."""
        return {"kind": self.kind, "label": self.label(row, names)}


@dataclass(frozen=True)
class PerImage(Target):
    """A different target, of any kind, for each image.

    Attributes:
        targets: One for each image of the batch.
    """

    targets: tuple[Target, ...]
    kind = "per image"

    @property
    def need(self) -> Capability:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """The part of the output that the targets read."""
        return self.targets[0].need

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Compute each image's own target."""
        return torch.cat([target.score(output.row(i)) for i, target in enumerate(self.targets)])

    def at(self, rows: Sequence[int]) -> Target:
        """Return the targets of these rows."""
        return PerImage(tuple(self.targets[row] for row in rows))

    def of_sources(self, sources: Sequence[str], names: Sequence[str] | None) -> Target:
        """Settle what each image's path tells."""
        pairs = zip(self.targets, sources, strict=True)
        return PerImage(tuple(target.of_sources([source], names) for target, source in pairs))

    def fixed(self, output: Output) -> Target:
        """Settle what the model's answer for each image tells."""
        return PerImage(tuple(target.fixed(output.row(i)) for i, target in enumerate(self.targets)))

    @property
    def depends_on_output(self) -> bool:
        """Whether any of the targets does."""
        return any(target.depends_on_output for target in self.targets)

    def check(self, batch: int, classes: int | None) -> None:
        """Check each target, and that there is one for each image."""
        if len(self.targets) != batch:
            raise TargetError(f"{len(self.targets)} targets for {batch} images; give one target, or one for each image")
        for target in self.targets:
            target.check(1, classes)

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name the target of image `row`."""
        return self.targets[row].label(0, names)

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Describe the target of image `row`."""
        return self.targets[row].describe(0, names)
