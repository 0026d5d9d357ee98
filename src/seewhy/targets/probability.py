"""The probability of a class in place of its logit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.maps import upcast
from seewhy.targets.against import Against
from seewhy.targets.base import Output, PerImage, Target
from seewhy.targets.classes import ClassTarget, Rank


class Probabilities(Protocol):
    """A model that tells how its logits become probabilities."""

    def probabilities(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """Return the probability of each class."""
        ...


@dataclass(frozen=True)
class Probability(Target):
    """The probability of a class instead of its logit.

    Attributes:
        target: The class.
        model: The model whose logits are read.
    """

    target: Target
    model: Probabilities
    kind = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Compute the probability of each image's class, in float32 at least."""
        logits = upcast(output.require(Capability.LOGITS))
        return self.target.score(Output(logits=self.model.probabilities(logits)))

    def at(self, rows: Sequence[int]) -> Target:
        """Return the target of a batch that is made of these rows of the original batch."""
        return Probability(self.target.at(rows), self.model)

    def fixed(self, output: Output) -> Target:
        """Settle everything that depends on the model's own answer."""
        return Probability(self.target.fixed(output), self.model)

    @property
    def depends_on_output(self) -> bool:
        """Whether `fixed` needs the model's answer."""
        return self.target.depends_on_output


def as_probability(target: Target, model: Probabilities) -> Target:
    """Return the target with each class in it scored by its probability; other kinds stay as they are."""
    if isinstance(target, PerImage):
        return PerImage(tuple(as_probability(each, model) for each in target.targets))
    if isinstance(target, Against):
        inner = as_probability(target.target, model)
        return target if inner is target.target else Against(inner, offset=1.0)
    is_class = isinstance(target, Rank) or (isinstance(target, ClassTarget) and target.kind == "class")
    return Probability(target, model) if is_class else target
