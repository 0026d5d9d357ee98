"""Does a map depend on what the model has learnt? The cascading model randomisation of Adebayo et al. (2018).

Sanity Checks for Saliency Maps, NeurIPS 2018, section 3.1: re-initialise the layers from the head down, one after the
other, and compare each map with that of the trained model. A map that stays the same does not explain this model.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.errors import NonFiniteError, OptionError, RequirementError, require
from seewhy.explainer import ConstantMapWarning, as_method, explain
from seewhy.explanation import Explanation
from seewhy.images import ImageLike, load_image
from seewhy.methods import Method
from seewhy.models.adapter import VisionModel
from seewhy.registry import Need
from seewhy.targets import TargetLike, as_target

UNCHANGED = 0.95  # rank correlation with the trained model's map when no trained weight is left
Progress = Callable[[Iterable, int, str], Iterator]


@dataclass(frozen=True, eq=False)
class Step:
    """A method's map after everything from the head down to `layer` lost what it had learnt.

    Attributes:
        layer: the deepest layer, as one goes down from the head, that is random.
        explanation: the map; None where the random model gives NaN or infinity.
        spearman: rank correlation of its positions with the trained model's map; None where one of them is constant.
        ssim: structural similarity of the two displayed maps at input size; None without scikit-image, or likewise.
    """

    layer: str
    explanation: Explanation | None
    spearman: float | None
    ssim: float | None


@dataclass(frozen=True, eq=False)
class Cascade:
    """One method: the trained model's map, and those of ever more random models."""

    trained: Explanation
    steps: list[Step]

    @property
    def verdict(self) -> str:
        """Empty if the map changes; else what a reader must know of the method."""
        if self.trained.is_constant:
            return "constant map: nothing to compare"
        maps = [step.explanation.map if step.explanation else None for step in self.steps]
        if all(m is not None and torch.equal(m, self.trained.map) for m in maps):
            return "does not depend on the weights"
        last = self.steps[-1].spearman
        return "hardly depends on the weights" if last is not None and last >= UNCHANGED else ""


def sanity(model: VisionModel, image: ImageLike, methods: Sequence[Any], target: TargetLike = None, *, steps: int = 7,
           seed: int = 0, progress: Progress = lambda items, *_: iter(items)) -> list[Cascade]:
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
        RequirementError: the model has no weights. OptionError: too few steps. As `explain` for the rest.
    """
    tools = [as_method(model, m) for m in methods]
    picture = load_image(image)
    goal = as_target(target, model.class_names, Need.LOGITS in model.offers)
    goal = goal.fixed(model.output(picture)) if goal.depends_on_output else goal
    trained = [_explained(model, tool, picture, goal) for tool in tools]
    cascades = [Cascade(explanation, []) for explanation in trained]
    groups = _groups(learnt_modules(model, model.prepare(picture)), steps)
    for name, random in progress(_forgetting(model, groups, seed), len(groups), "randomising"):
        for tool, cascade in zip(tools, cascades, strict=True):
            cascade.steps.append(_step(random, tool, picture, goal, name, cascade.trained))
    return cascades


def learnt_modules(model: VisionModel, x: Tensor) -> list[str]:
    """Names of the modules that hold parameters of their own, from the head down: the last to begin comes first.

    Raises:
        RequirementError: there are none.
    """
    order: dict[str, None] = {}
    handles = [m.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
               for name, m in model.module.named_modules() if any(True for _ in m.parameters(recurse=False))]
    try:
        model.checked_output(x)
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise RequirementError(f"{model.name} has no weights to randomise; wrap the module itself with seewhy.wrap")
    return list(reversed(order))


def forget(module: nn.Module, seed: int) -> None:
    """Re-initialise a module's own parameters in place: by its `reset_parameters`, else normal with the same spread.

    The global random state is left alone.
    """
    own = list(module.parameters(recurse=False))
    devices = {p.device.index for p in own if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)), torch.no_grad():
        torch.manual_seed(seed)
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
            return
        for p in own:
            p.normal_(0, float(p.float().std(unbiased=False)) or 1.0)


def _groups(names: list[str], steps: int) -> list[list[str]]:
    """The head alone, then the others in about equal parts."""
    if steps < 2:
        raise OptionError(f"steps={steps} is too small; use 2 or more")
    rest, parts = names[1:], min(steps - 1, len(names) - 1)
    edges = [round(i * len(rest) / parts) for i in range(parts + 1)] if parts else []
    return [names[:1], *(rest[a:b] for a, b in pairwise(edges))]


def _forgetting(model: VisionModel, groups: list[list[str]], seed: int) -> Iterator[tuple[str, VisionModel]]:
    """(deepest random layer, model) for each group; one copy that forgets more and more."""
    random = copy.copy(model)
    random.module = copy.deepcopy(model.module)
    number = 0
    for group in groups:
        for name in group:
            forget(random.module.get_submodule(name), seed + number)
            number += 1
        yield group[-1] or "input", random


def _step(model: VisionModel, tool: Method, picture: Any, goal: Any, name: str, trained: Explanation) -> Step:
    try:
        found = _explained(model, _moved(tool, model), picture, goal)
    except NonFiniteError:
        return Step(name, None, None, None)
    if found.is_constant or trained.is_constant:
        return Step(name, found, None, None)
    return Step(name, found, spearman(found.map, trained.map), ssim(found, trained))


def _explained(model: VisionModel, tool: Method, picture: Any, goal: Any) -> Explanation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantMapWarning)  # the figure says it
        return explain(model, picture, tool, goal)


def _moved(tool: Method, model: VisionModel) -> Method:
    """The same method for the copy; layers that were given as modules go by name."""
    names = {m: name for name, m in tool.model.module.named_modules()}

    def named(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(named(v) for v in value)
        return names.get(value, value) if isinstance(value, nn.Module) else value

    return type(tool)(**{f.name: named(getattr(tool, f.name)) for f in fields(tool) if f.init and f.name != "model"},
                      model=model)


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation over all positions; ties get their mean rank."""
    stats = require("scipy.stats", "cluster")
    return float(stats.spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic)


def ssim(a: Explanation, b: Explanation) -> float | None:
    """Structural similarity of the maps as displayed (each normalised, at input size); None without scikit-image."""
    if importlib.util.find_spec("skimage") is None:
        return None
    from skimage.metrics import structural_similarity

    one, two = (e.resized().double() / e.map.abs().max() if e.signed else _unit(e) for e in (a, b))
    return float(structural_similarity(one.numpy(), two.numpy(), data_range=2.0 if a.signed else 1.0))


def _unit(explanation: Explanation) -> Tensor:
    low, high = explanation.map.min(), explanation.map.max()
    return (explanation.resized().double() - low) / (high - low)
