"""What is timed: methods, several targets of one image, metrics, and what stands around a method; with budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.core.maps import resize_maps
from seewhy.explainer import explain, explain_each
from seewhy.methods import METHODS, Method
from seewhy.metrics import METRICS, MetricInputs
from seewhy.models.adapter import VisionModel
from seewhy.targets import Similarity, Target

Run = Callable[[], object]


@dataclass(frozen=True)
class TimedTask:
    """Something that is timed against one forward.

    Attributes:
        name: For the table.
        run: Does it once.
        budget: The ratio to a forward that it should stay within; None: none is set.
        passes: How many runs of the whole model it needs; the ratio is divided by it.
        maps: How many maps it makes.
        package: Whose it is.
    """

    name: str
    run: Run
    budget: float | None = None
    passes: int = 1
    maps: int = 1
    package: str = "seewhy"


@dataclass(frozen=True)
class Budget:
    """The budget of a method, in forwards of the model; of one that runs the model often, for each run.

    Attributes:
        ratio: Forwards.
        options: Options of the method.
        suffix: What the options are called in the table.
    """

    ratio: float
    options: dict[str, Any] | None = None
    suffix: str = ""


STEP = 2.3 * 1.03
"""A forward and a backward of the whole model, and a little."""

BUDGETS: dict[str, tuple[Budget, ...]] = {
    "lafam": (Budget(1.02),),
    "attention_map": (Budget(1.02),),
    "cdam": (Budget(1.05),),
    "concept_cdam": (Budget(1.05),),
    "integrated_cdam": (Budget(1.3), Budget(1.3, {"at": "norm1"}, " at norm1")),
    "smooth_cdam": (Budget(2.6), Budget(2.6, {"at": "norm1"}, " at norm1")),
    "grad_cam": (Budget(1.15),),
    "grad_cam_plus_plus": (Budget(1.15),),
    "layer_cam": (Budget(1.15),),
    "saliency": (Budget(2.3),),
    "input_x_gradient": (Budget(2.3),),
    "guided_backprop": (Budget(2.4),),
    "integrated_gradients": (Budget(STEP),),
    "smooth_grad": (Budget(STEP),),
    "relevance_propagation": (Budget(2.3),),
    "transformer_attribution": (Budget(5),),
    "attn_lrp": (Budget(3.5, {"rule": "epsilon"}, " ε"), Budget(3.5)),
    "partial_lrp": (Budget(1.5),),
    "lrp": (Budget(4), Budget(6, {"composite": "epsilon_gamma_box"}, " ε-γ-box")),
    "lafam_lrp": (Budget(4.5),),
    "nave": (Budget(1.4),),
    "rise": (Budget(1.05),),
    "relax": (Budget(1.05),),
    "occlusion": (Budget(1.05),),
    "score_cam": (Budget(1.05),),
}
"""Budgets by method; a method without one is not in the table unless it is asked for."""

_PER_PASS = ("integrated_gradients", "smooth_grad", "rise", "relax", "occlusion", "score_cam")
_FEWER: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 16},
    "smooth_grad": {"n_samples": 16},
    "rise": {"n_masks": 32},
    "relax": {"n_masks": 32},
    "occlusion": {"window": 64, "stride": 40},
    "score_cam": {"top_k": 32},
}


def method_tasks(model: VisionModel, x: Tensor, names: list[str] | None = None) -> Iterator[TimedTask]:
    """Make a task for each method that can serve the model.

    Args:
        model: The model.
        x: The batch.
        names: The methods; None: those with a budget.

    Yields:
        The tasks.
    """
    for name in names or BUDGETS:
        cls = METHODS[name]
        if cls.why_incompatible(model):
            continue
        for budget in BUDGETS.get(name, (Budget(0),)):
            options = {**_FEWER.get(name, {}), **(budget.options or {})}
            method = cls(model, **options)
            yield TimedTask(
                name + budget.suffix,
                _call(method, x, target_for(method, x)),
                budget.ratio or None,
                _passes(method, x) if name in _PER_PASS else 1,
                len(x),
            )


def _call(method: Method, x: Tensor, target: Target | int | None) -> Run:
    return lambda: method(x, target)


def _passes(method: Method, x: Tensor) -> int:
    """Return how often a method that repeats the model runs it for one image."""
    return method.cost.forward


def target_for(method: Method, x: Tensor) -> Target | int | None:
    """Return a class, or a concept where classes make no sense."""
    if method.card.target_kind != "concept":
        return 0 if method.card.class_specific else None
    with torch.no_grad():
        embedding = method.model.forward_checked(x[:1]).embedding
    assert embedding is not None  # the method needs it
    return Similarity(embedding.flip(-1), kind="concept")


def several_targets(model: VisionModel, x: Tensor, classes: int = 5) -> Iterator[TimedTask]:
    """Yield tasks with several classes of each image, which need one forward."""
    for name, each in (("cdam", 0.01), ("grad_cam", 0.15), ("saliency", 1.35)):
        if METHODS[name].why_incompatible(model):
            continue
        method, rows = METHODS[name](model), [i for _ in range(classes) for i in range(len(x))]
        targets = [k for k in range(classes) for _ in range(len(x))]

        def run(method: Method = method, rows: list[int] = rows, targets: list[int] = targets) -> object:
            return method(x, targets, image_index=rows)

        first = BUDGETS[name][0].ratio
        yield TimedTask(f"{name}, {classes} classes", run, first + (classes - 1) * each, maps=len(rows))


def around_tasks(model: VisionModel, size: tuple[int, int]) -> Iterator[TimedTask]:
    """Yield tasks of the front door: an image from memory, the model's answers, several methods and targets."""
    image = torch.rand(3, *size)
    own = "cdam" if not METHODS["cdam"].why_incompatible(model) else "grad_cam"
    once = ["lafam", "attention_map", "cdam", "grad_cam"] if own == "cdam" else ["lafam", "grad_cam"]
    yield TimedTask(f"explain({own}), top-1", lambda: explain(model, image, own), 1.1)
    yield TimedTask("explain_each(lafam) with answers", lambda: list(explain_each(model, [image], ["lafam"])), 1.05)
    yield TimedTask(
        f"{len(once)} one-forward methods and top-1",
        lambda: list(explain_each(model, [image], once)),
        len(once) + 0.1,
        maps=len(once),
    )
    ranks = [f"top-{k}" for k in range(1, 6)]
    yield TimedTask(
        f"top-5 with {own}", lambda: list(explain_each(model, [image], [own], ranks)), 1.2 if own == "cdam" else 1.5
    )


def metric_tasks(x: Tensor) -> Iterator[TimedTask]:
    """Yield the metrics that look at a map only, all together, of maps as large as the input."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(len(x), 14, 14, generator=generator).to(x.device)
    maps = resize_maps(coarse, (x.shape[-2], x.shape[-1]))
    rows, cols = maps.shape[1:]
    masks = torch.zeros_like(maps, dtype=torch.bool)
    masks[:, rows // 4 : rows // 2, cols // 5 : cols // 2] = True
    box = torch.tensor([[cols // 5, rows // 4, cols // 2, rows // 2]], dtype=torch.float32)
    given = {Requirement.MASK, Requirement.OBJECTS, Requirement.BOXES}
    metrics = [cls() for cls in METRICS.values() if cls.card.needs <= given]

    def run() -> object:
        inputs = MetricInputs(masks=masks, objects=list(masks[:, None]), boxes=[box] * len(maps))
        return [metric.measure(maps, inputs) for metric in metrics]

    yield TimedTask(f"{len(metrics)} metrics of a map", run, 0.02, maps=len(maps))
