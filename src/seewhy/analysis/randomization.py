"""Does a map depend on what the model has learnt? The cascading model randomization of Adebayo et al. (2018).

Sanity Checks for Saliency Maps, NeurIPS 2018, section 3.1: re-initialize the layers from the head down, one after the
other, and compare each map with that of the trained model. A map that stays the same does not explain this model.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.images import ImageLike, load_image
from seewhy.core.maps import mean_ranks, normalize
from seewhy.errors import NonFiniteError, OptionError, RequirementError
from seewhy.explainer import ConstantMapWarning, explain
from seewhy.explanation import Explanation
from seewhy.methods import Method
from seewhy.methods.factory import as_method
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
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
        RequirementError: the model has no weights. OptionError: too few steps. As `explain` for the rest.
    """
    tools = [as_method(model, m) for m in methods]
    picture = load_image(image)
    goal = model.as_target(target)
    goal = goal.fixed(model.output(picture)) if goal.depends_on_output else goal
    trained = [_explained(model, tool, picture, goal) for tool in tools]
    cascades = [CascadingRandomization(explanation, []) for explanation in trained]
    groups = stages(parametrized_modules(model, model.preprocess_images(picture)), steps)
    for name, random in progress(forgetting(model, groups, seed), len(groups), "randomizing"):
        for tool, cascade in zip(tools, cascades, strict=True):
            cascade.steps.append(_step(random, tool, picture, goal, name, cascade.trained))
    return cascades


def parametrized_modules(model: VisionModel, x: Tensor) -> list[str]:
    """Names of the modules that hold parameters of their own, from the head down: the last to begin comes first.

    Raises:
        RequirementError: there are none.
    """
    order: dict[str, None] = {}
    handles = [
        m.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
        for name, m in model.module.named_modules()
        if any(True for _ in m.parameters(recurse=False))
    ]
    try:
        with torch.no_grad(), model.shape_error_context(x), untouched(model.module):
            model.run(x)
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise RequirementError(f"{model.name} has no weights to randomize; wrap the module itself with seewhy.wrap")
    return list(reversed(order))


def reinitialize(module: nn.Module, seed: int) -> None:
    """Re-initialize a module's own parameters in place: by its `reset_parameters`, else normal with the same spread.

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


def stages(names: list[str], steps: int) -> list[list[str]]:
    """The head alone, then the others in about equal parts."""
    if steps < 2:
        raise OptionError(f"steps={steps} is too small; use 2 or more")
    rest, parts = names[1:], min(steps - 1, len(names) - 1)
    edges = [round(i * len(rest) / parts) for i in range(parts + 1)] if parts else []
    return [names[:1], *(rest[a:b] for a, b in pairwise(edges))]


def forgetting(model: VisionModel, groups: list[list[str]], seed: int) -> Iterator[tuple[str, VisionModel]]:
    """(deepest random layer, model) for each group; one copy that forgets more and more."""
    random = copy.copy(model)
    with torch.inference_mode(False):  # parameters made inside could not be differentiated through
        random.module = copy.deepcopy(model.module)
    number = 0
    for group in groups:
        for name in group:
            reinitialize(random.module.get_submodule(name), seed + number)
            number += 1
        yield group[-1] or "input", random


def _step(model: VisionModel, tool: Method, picture: Any, goal: Any, name: str, trained: Explanation) -> Step:
    try:
        found = _explained(model, moved(tool, model), picture, goal)
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


def moved(tool: Method, model: VisionModel) -> Method:
    """The same method for a copy of its model; layers that were given as modules go by name."""
    names = {m: name for name, m in tool.model.module.named_modules()}
    options = {f.name: _by_name(getattr(tool, f.name), names) for f in fields(tool) if f.init and f.name != "model"}
    return type(tool)(**options, model=model)


def _by_name(value: Any, names: dict[nn.Module, str]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_by_name(v, names) for v in value)
    return names.get(value, value) if isinstance(value, nn.Module) else value


def spearman(a: Float[Tensor, "batch *positions"], b: Float[Tensor, "batch *positions"]) -> Float[Tensor, "batch"]:
    """Rank correlation over all positions of each map, float64; ties get their mean rank; NaN for a constant map."""
    one, two = (mean_ranks(m.flatten(1)) for m in (a, b))
    one, two = (r - r.mean(1, keepdim=True) for r in (one, two))
    return (one * two).sum(1) / (one.square().sum(1) * two.square().sum(1)).sqrt()


def ssim(
    a: Float[Tensor, "batch rows cols"], b: Float[Tensor, "batch rows cols"], signed: bool = False
) -> Float[Tensor, "batch"]:
    """Structural similarity of the maps as displayed, each normalized by itself; 7×7 windows, as scikit-image."""
    one, two = (normalize(m.double(), signed)[:, None] for m in (a, b))
    side = min(7, *a.shape[1:])
    mean = partial(F.avg_pool2d, kernel_size=side, stride=1)
    sample = side**2 / max(1, side**2 - 1)
    m1, m2 = mean(one), mean(two)
    spread = sample * (mean(one * one) - m1 * m1 + mean(two * two) - m2 * m2)
    shared = sample * (mean(one * two) - m1 * m2)
    c1, c2 = ((k * (2 if signed else 1)) ** 2 for k in (0.01, 0.03))  # (k · range of the values)²
    alike = (2 * m1 * m2 + c1) * (2 * shared + c2) / ((m1 * m1 + m2 * m2 + c1) * (spread + c2))
    return alike.mean((1, 2, 3))
