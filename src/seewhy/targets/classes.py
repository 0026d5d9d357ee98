"""Targets that are a class or another output of the head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.class_names import find_class
from seewhy.errors import TargetError
from seewhy.targets.against import Against
from seewhy.targets.base import Output, PerImage, Target


@dataclass(frozen=True)
class ClassTarget(Target):
    """The logit of a class: one index for all images, or one for each.

    Attributes:
        index: One class number, or one for each image.
    """

    index: tuple[int, ...]
    kind: str = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Pick the logit of each image's class."""
        logits = output.require(Capability.LOGITS)
        self.check(len(logits), logits.shape[1])
        if len(self.index) == 1:
            return logits[:, self.index[0]]
        columns = torch.tensor(self.index).to(logits.device, non_blocking=True)
        return logits.gather(1, columns[:, None]).squeeze(1)

    def at(self, rows: Sequence[int]) -> Target:
        """Return the classes of these rows."""
        return self if len(self.index) == 1 else replace(self, index=tuple(self.index[row] for row in rows))

    def check(self, batch: int, classes: int | None) -> None:
        """Check that there is one class, or one for each image, and that the head has them."""
        if len(self.index) not in (1, batch):
            raise TargetError(f"{len(self.index)} targets for {batch} images; give one target, or one for each image")
        for index in self.index:
            if classes is not None and not 0 <= index < classes:
                raise TargetError(f"{self.kind} {index} is out of range; this model has {classes}: 0 to {classes - 1}")
            if index < 0:
                raise TargetError(f"{self.kind} {index} is negative; count from 0")

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name the class of image `row`."""
        index = self.index[row % len(self.index)]
        return names[index] if names and index < len(names) else f"{self.kind} {index}"

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Describe the class of image `row`."""
        return {**super().describe(row, names), "index": self.index[row % len(self.index)]}


def Regression(index: int = 0) -> ClassTarget:  # noqa: N802 (reads as a target in user code)
    """Return the target that is one output of a regression head."""
    return ClassTarget((index,), kind="output")


@dataclass(frozen=True)
class Rank(Target):
    """The class that the model itself ranks `rank`-th for each image; 1 is its answer.

    Attributes:
        rank: Counted from 1.
    """

    rank: int = 1
    kind = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Pick the logit of each image's class of that rank."""
        logits = output.require(Capability.LOGITS)
        return logits.gather(1, self._classes(logits)[:, None]).squeeze(1)

    def fixed(self, output: Output) -> Target:
        """Return the classes that have the rank in this output."""
        return ClassTarget(tuple(self._classes(output.require(Capability.LOGITS)).tolist()))

    def _classes(self, logits: Tensor) -> Tensor:
        self.check(len(logits), logits.shape[1])
        return logits.detach().topk(self.rank, dim=1).indices[:, -1]

    @property
    def depends_on_output(self) -> bool:
        """Always."""
        return True

    def check(self, batch: int, classes: int | None) -> None:
        """Check that the head has as many classes."""
        if self.rank < 1 or (classes is not None and self.rank > classes):
            raise TargetError(f"rank {self.rank} is out of range; this model has {classes} classes: 1 to {classes}")

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name the rank."""
        return f"top-{self.rank}"


def as_outputs(target: Target) -> Target:
    """Return the target with each class in it read as an output of a regression head.

    Raises:
        TargetError: It is a rank among classes, which quantities do not have.
    """
    if isinstance(target, PerImage):
        return PerImage(tuple(map(as_outputs, target.targets)))
    if isinstance(target, Against):
        return replace(target, target=as_outputs(target.target))
    if isinstance(target, Rank | Truth):
        raise TargetError(
            f"the outputs of this model are quantities, not classes, so there is no {target.label(0)!r}; "
            "give the number or name of an output"
        )
    return replace(target, kind="output") if isinstance(target, ClassTarget) else target


def top(k: int) -> list[Target]:
    """Return k targets, the model's k best classes: pass them to `compare` as its targets."""
    return [Rank(rank) for rank in range(1, k + 1)]


@dataclass(frozen=True)
class Truth(Target):
    """The class that the folder of an image file is named after (`images/elk/1.jpg`: elk)."""

    kind = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Refuse: without the files there is no truth.

        Raises:
            TargetError: Always.
        """
        raise TargetError(
            "'truth' is the name of an image's folder; pass files to seewhy.explain, or give the classes themselves"
        )

    def of_sources(self, sources: Sequence[str], names: Sequence[str] | None) -> Target:
        """Return the classes that the folders are named after."""
        return ClassTarget(tuple(class_index(Path(source).parent.name, names) for source in sources))

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name the target."""
        return "truth"


def class_index(name: str, names: Sequence[str] | None) -> int:
    """Find a class by name or number; one of the synonyms of a comma-separated name is enough.

    A name written exactly so comes before one of other case or punctuation: of ImageNet's classes `"Cardigan"` is the
    dog and `"cardigan"` the garment.

    Args:
        name: What the user wrote.
        names: The model's class names.

    Raises:
        UnknownNameError: There is no such class; the message suggests the nearest.
        TargetError: The model came without class names, or the name is that of several classes.
    """
    if re.fullmatch(r"\s*-?[0-9]+\s*", name):
        return int(name)
    if not names:
        raise TargetError(f"this model came without class names, so {name!r} cannot be found; give the class number")
    return find_class(name, names)
