"""Evidence against a target: its score with the other sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.targets.base import Output, Target


class TargetReader(Protocol):
    """Protocol of what knows classes by name: a `VisionModel`."""

    def as_target(self, spec: Any, /) -> Target:
        """Return the target that a user writes."""
        ...


def against(model: TargetReader, target: Any = None) -> Against:
    """Make what speaks against a target a target: for binary and multi-label models the other direction.

    Args:
        model: The `VisionModel` that is to be explained.
        target: As for `seewhy.explain`; None: the model's answer.

    Raises:
        TargetError: There is no such target.
        UnknownNameError: There is no class of that name.
    """
    return Against(model.as_target(target))


@dataclass(frozen=True)
class Against(Target):
    """The negative score of a target: a map of what makes the model doubt it.

    Attributes:
        target: What is spoken against.
        offset: Added to the negative score; 1 for a probability, whose complement it is then.
    """

    target: Target
    offset: float = 0.0

    @property
    def kind(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """The kind of the target itself."""
        return self.target.kind

    @property
    def need(self) -> Capability:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the target itself reads."""
        return self.target.need

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Compute the negative score."""
        return self.offset - self.target.score(output)

    def at(self, rows: Sequence[int]) -> Target:
        """Return what speaks against the targets of these rows."""
        return replace(self, target=self.target.at(rows))

    def of_sources(self, sources: Sequence[str], names: Sequence[str] | None) -> Target:
        """Settle what the images' paths tell."""
        return replace(self, target=self.target.of_sources(sources, names))

    def fixed(self, output: Output) -> Target:
        """Settle what the model's answer tells."""
        return replace(self, target=self.target.fixed(output))

    @property
    def depends_on_output(self) -> bool:
        """Whether the target itself does."""
        return self.target.depends_on_output

    def check(self, batch: int, classes: int | None) -> None:
        """Check the target itself."""
        self.target.check(batch, classes)

    def label(self, row: int, names: Sequence[str] | None = None) -> str:
        """Name what is spoken against."""
        return f"against {self.target.label(row, names)}"

    def describe(self, row: int, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Describe the target, and that the score is turned around."""
        return {**self.target.describe(row, names), "label": self.label(row, names), "against": True}
