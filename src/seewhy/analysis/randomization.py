"""Does a map depend on what the model has learned? The cascading model randomization of Adebayo et al. (2018).

Sanity Checks for Saliency Maps, NeurIPS 2018, section 3.1: re-initialize the layers from the head down, one after the
other, and compare each map with that of the trained model. A map that stays the same does not explain this model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seewhy.core.images import ImageLike, ReadImage
from seewhy.core.maps import spearman, ssim
from seewhy.core.progress import Progress, no_progress
from seewhy.errors import NonFiniteError, RequirementError
from seewhy.explainer import ConstantMapWarning, explain
from seewhy.explanation import Explanation
from seewhy.methods.base import Method
from seewhy.methods.factory import MethodLike, as_method
from seewhy.methods.rebind import rebind
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.randomize import layer_groups, parametrized_modules, randomized_models
from seewhy.targets import Target, TargetLike

UNCHANGED = 0.95  # rank correlation with the trained model's map when no trained weight is left


@dataclass(frozen=True, eq=False)
class RandomizationStep:
    """A method's map after the weights from the head down to `layer` were randomized.

    Attributes:
        layer: The deepest random layer, as one goes down from the head.
        explanation: The map; None where the random model gives NaN or infinity.
        spearman: Rank correlation with the trained model's map; None where one of them is constant.
        ssim: Structural similarity of the two displayed maps at input size; None likewise.
    """

    layer: str
    explanation: Explanation | None
    spearman: float | None
    ssim: float | None


@dataclass(frozen=True, eq=False)
class CascadingRandomization:
    """The result of one method.

    Attributes:
        trained: The trained model's map.
        steps: The maps of ever more random models.
    """

    trained: Explanation
    steps: list[RandomizationStep]

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


def randomization_test(
    model: VisionModel,
    image: ImageLike,
    methods: Sequence[MethodLike],
    target: TargetLike = None,
    *,
    steps: int = 7,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[CascadingRandomization]:
    """Explain one image while a copy of the model is randomized from the head down to the first layer.

    Args:
        model: A model of `seewhy.load_model` or `seewhy.wrap`; it is not changed.
        image: A path, PIL image, array or tensor.
        methods: Names, method classes or configured methods.
        target: What is explained; settled on the trained model, so that the class stays the same throughout.
        steps: How many random models; the first has a random head only, the last random weights only.
        seed: Seed of the random weights.
        progress: Shows the random models.

    Returns:
        A result for each method, in order; `seewhy.viz.randomization_figure` draws them.

    Raises:
        RequirementError: When the model has no weights, or does not support a method.
        OptionError: When there are fewer than two steps.
        SeewhyError: As for `seewhy.explain`.
    """
    if model.structure.volume:
        raise RequirementError(f"the randomization test compares maps of images, and {model.name} takes volumes")
    configured = [as_method(model, method) for method in methods]
    loaded = model.opened(image)()
    resolved = model.as_target(target)
    if resolved.depends_on_output:
        resolved = resolved.fixed(model.output(loaded))
    cascades = [CascadingRandomization(_explain_quietly(model, m, loaded, resolved), []) for m in configured]
    groups = layer_groups(parametrized_modules(model, model.preprocess_images(loaded)), steps)
    for layer, random_model in progress(randomized_models(model, groups, seed), len(groups), "randomizing"):
        for method, cascade in zip(configured, cascades, strict=True):
            cascade.steps.append(_compare(random_model, method, loaded, resolved, layer, cascade.trained))
    return cascades


def _compare(
    model: VisionModel, method: Method, image: ReadImage, target: Target, layer: str, trained: Explanation
) -> RandomizationStep:
    try:
        explanation = _explain_quietly(model, rebind(method, model), image, target)
    except NonFiniteError:
        return RandomizationStep(layer, None, None, None)
    if explanation.is_constant or trained.is_constant:
        return RandomizationStep(layer, explanation, None, None)
    return RandomizationStep(
        layer,
        explanation,
        spearman=spearman(explanation.attribution[None], trained.attribution[None]).item(),
        ssim=ssim(explanation.resized()[None], trained.resized()[None], trained.signed).item(),
    )


def _explain_quietly(model: VisionModel, method: Method, image: ReadImage, target: Target) -> Explanation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantMapWarning)  # the figure says it
        return explain(model, image, method, target)
