"""A method class, a model, a batch and a target: what each check of a method works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from seewhy.checks.core import Check, batch_for, entered, few_repetitions, named
from seewhy.core.cards import Capability, MethodCard
from seewhy.methods.base import Method
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.targets import ClassTarget, Output, Similarity, Target, TargetLike, as_target

METHOD_CHECKS: list[tuple[str, Check]] = []
"""Every check of a method as (name, check), filled by the decorator.

`check(cls, model, x=None, target=None, options=None)`.
"""


@dataclass
class MethodCase:
    """A method on a model and a batch, for one check.

    Attributes:
        cls: The method.
        model: A model that can serve it.
        x: The batch.
        target: One target for each image.
        few: Options that make the method cheap: its numbers of repetitions are set to `FEW`.
        given: Options without which it cannot be made: the `weights` of a trained method.
    """

    cls: type[Method]
    model: VisionModel
    x: Tensor
    target: Target
    few: dict[str, int]
    given: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def card(self) -> MethodCard:
        """The method's card."""
        return self.cls.card

    def method(self, model: VisionModel | None = None, **options: Any) -> Method:
        """Return the method with few passes, on the model or on another."""
        return self.cls(model=model or self.model, **{**self.given, **self.few, **options})

    def maps(
        self, x: Tensor | None = None, target: TargetLike = None, model: VisionModel | None = None, **options: Any
    ) -> Tensor:
        """Compute the maps of the batch and target, or of others."""
        x, target = self.x if x is None else x, self.target if target is None else target
        return self.method(model, **options)(x, target)

    @cached_property
    def plain(self) -> Tensor:
        """The maps of the batch and target, computed once."""
        return self.maps()

    @cached_property
    def output(self) -> Output:
        """The model's output for the batch."""
        return output_of(self.model, self.x)

    def copied_target(self) -> Target:
        """Return the target with its tensors made anew, in the grad mode of the caller."""
        return (
            replace(self.target, vector=self.target.vector * 1) if isinstance(self.target, Similarity) else self.target
        )

    def other_target(self) -> Target:
        """Return a target that differs from the case's for every image."""
        if isinstance(self.target, Similarity):
            return replace(self.target, vector=self.target.vector.flip(-1))
        if isinstance(self.target, ClassTarget) and len(self.target.index) == len(self.x):
            width = self.output.require(Capability.LOGITS).shape[1]
            return ClassTarget(tuple((i + 1) % width for i in self.target.index))
        return default_target(self.cls, self.model, self.x)

    def bad_targets(self) -> Iterator[tuple[str, Target]]:
        """Yield targets that cannot be, in words and as objects."""
        repeated = self.target.at([0] * len(self.x) + [0])
        if isinstance(self.target, Similarity):
            longer = torch.ones(self.target.vector.shape[-1] + 1)
            yield "a vector of the wrong length", replace(self.target, vector=longer)
        if isinstance(self.target, ClassTarget):
            yield "a class out of range", ClassTarget((self.output.require(Capability.LOGITS).shape[1],))
        if isinstance(self.target, (Similarity, ClassTarget)):
            yield "one target too many", repeated


def output_of(model: VisionModel, x: Tensor) -> Output:
    """Return the model's output for a batch."""
    with torch.no_grad(), untouched(model.module):
        return model.run(x)


def default_target(cls: type[Method], model: VisionModel, x: Tensor) -> Target:
    """Return a class for each image, 0, 1, 2 …; a random vector for each where classes make no sense."""
    kind = cls.card.target_kind
    if kind is None and Capability.LOGITS in model.capabilities:
        width = model.classes or output_of(model, x).require(Capability.LOGITS).shape[1]
        return ClassTarget(tuple(i % width for i in range(len(x))))
    shape = output_of(model, x).require(Capability.EMBEDDING).shape
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(x)
    return Similarity(vectors, kind=kind or "concept")


def make_method_case(
    cls: type[Method],
    model: VisionModel,
    x: Tensor | None,
    target: TargetLike,
    given: Mapping[str, Any] | None = None,
) -> MethodCase:
    """Fill in what the caller left out; `SkipTest` if the model cannot serve the method."""
    why = cls.why_incompatible(model)
    if cls.card.trained and not given:
        why = "it must be fitted first; pass options={'weights': …, 'verify': False}"
    if why:
        raise SkipTest(f"{cls.card.title} cannot serve {model.name}: {why}")
    x = batch_for(model, x)
    target = default_target(cls, model, x) if target is None else as_target(target, model.class_names)
    return MethodCase(cls, model, x, target, few_repetitions(cls), dict(given or {}))


def method_check(fn: Callable[[MethodCase], None]) -> Check:
    """Make a public check of a function of a case, and put it on `METHOD_CHECKS`."""

    def check(
        cls: type[Method],
        model: VisionModel,
        x: Tensor | None = None,
        target: TargetLike = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        with named(cls.card.name, fn.__name__):
            fn(make_method_case(cls, model, x, target, options))

    return entered(METHOD_CHECKS, fn, check)
