"""Does a map depend on what the model has learnt? The cascading model randomization of Adebayo et al. (2018).

Sanity Checks for Saliency Maps, NeurIPS 2018, section 3.1: re-initialize the layers from the head down, one after the
other, and compare each map with that of the trained model. A map that stays the same does not explain this model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from seewhy.core.images import ImageLike, load_image
from seewhy.core.maps import spearman, ssim
from seewhy.errors import NonFiniteError
from seewhy.explainer import ConstantMapWarning, explain
from seewhy.explanation import Explanation
from seewhy.methods import Method
from seewhy.methods.factory import as_method
from seewhy.methods.rebind import rebind
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.randomize import layer_groups, parametrized_modules, randomized_models
from seewhy.targets import TargetLike

UNCHANGED = 0.95  # rank correlation with the trained model's map when no trained weight is left
Progress = Callable[[Iterable, int, str], Iterator]


@dataclass(frozen=True, eq=False)
class Step:
    """A method's map after everything from the head down to `layer` lost what it had learnt.

    Attributes:
        layer: the deepest layer, as one goes down from the head, that is random.
        explanation: the map; None where the random model gives NaN or infinity.
        spearman: rank correlation of its positions with the trained model's map; None where one of them is constant.
        ssim: structural similarity of the two displayed maps at input size; None likewise.
    """

    layer: str
    explanation: Explanation | None
    spearman: float | None
    ssim: float | None


@dataclass(frozen=True, eq=False)
class CascadingRandomization:
    """One method: the trained model's map, and those of ever more random models."""

    trained: Explanation
    steps: list[Step]

    @property
    def verdict(self) -> str:
        """Empty if the map changes; else what a reader must know of the method."""
        if self.trained.is_constant:
            return "constant map: nothing to compare"
        maps = [step.explanation.attribution if step.explanation else None for step in self.steps]
        if all(m is not None and torch.equal(m, self.trained.attribution) for m in maps):
            return "does not depend on the weights"
        last = self.steps[-1].spearman
        return "hardly depends on the weights" if last is not None and last >= UNCHANGED else ""


def sanity(
    model: VisionModel,
    image: ImageLike,
    methods: Sequence[Any],
    target: TargetLike = None,
    *,
    steps: int = 7,
    seed: int = 0,
    progress: Progress = lambda items, *_: iter(items),
) -> list[CascadingRandomization]:
    """Explain one photo while a copy of the model forgets, from the head down to the first layer.

    Args:
        model: it is not changed.
        image: one photo.
        methods: names, classes or configured methods.
        target: settled on the trained model, so that the class stays the same throughout.
        steps: how many models; the first has a random head only, the last random weights only.
        seed: of the random weights.
        progress: called with (items, total, label), gives the items again.

    Raises:
        RequirementError: the model has no weights.
        OptionError: too few steps.
    """
    tools = [as_method(model, m) for m in methods]
    picture = load_image(image)
    goal = model.as_target(target)
    goal = goal.fixed(model.output(picture)) if goal.depends_on_output else goal
    trained = [_explained(model, tool, picture, goal) for tool in tools]
    cascades = [CascadingRandomization(explanation, []) for explanation in trained]
    groups = layer_groups(parametrized_modules(model, model.preprocess_images(picture)), steps)
    for name, random in progress(randomized_models(model, groups, seed), len(groups), "randomizing"):
        for tool, cascade in zip(tools, cascades, strict=True):
            cascade.steps.append(_step(random, tool, picture, goal, name, cascade.trained))
    return cascades


def _step(model: VisionModel, tool: Method, picture: Any, goal: Any, name: str, trained: Explanation) -> Step:
    try:
        found = _explained(model, rebind(tool, model), picture, goal)
    except NonFiniteError:
        return Step(name, None, None, None)
    if found.is_constant or trained.is_constant:
        return Step(name, found, None, None)
    alike = ssim(*(e.resized()[None] for e in (found, trained)), trained.signed)
    return Step(name, found, float(spearman(found.attribution[None], trained.attribution[None])), float(alike))


def _explained(model: VisionModel, tool: Method, picture: Any, goal: Any) -> Explanation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantMapWarning)  # the figure says it
        return explain(model, picture, tool, goal)
