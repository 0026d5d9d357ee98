"""What every method shares: checking before any forward, running safely, and never returning NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, dataclass_transform

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, MethodCard, folder_of
from seewhy.core.maps import flat_rows, upcast
from seewhy.core.options import check_options, option, options_of
from seewhy.core.registry import Registry
from seewhy.errors import ModelError, NonFiniteError, RequirementError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import backward, untouched
from seewhy.models.structure import Layer
from seewhy.targets import Output, PerImage, Target, TargetLike, tiled_rows

M = TypeVar("M", bound="Method")

METHODS: Registry[type[Method]] = Registry(
    "method", package="seewhy.methods", group="seewhy.methods", hint="`seewhy methods` lists them"
)
"""Every method by name: those of this package and those that other installed packages declare."""


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(option,))
def method(
    *,
    name: str,
    title: str,
    summary: str,
    needs: set[Capability],
    signed: bool,
    class_specific: bool,
    citation: str,
    cost: Callable[[Any], Cost],
    family: str | None = None,
    stochastic: bool = False,
    target_kind: str | None = None,
    hides: bool = False,
    autocast: str = "",
    register: bool = True,
) -> Callable[[type[M]], type[M]]:
    """Make a class a method: a dataclass of its options with a card, entered in `METHODS`.

    The arguments are the fields of `MethodCard`; `family` is by default the folder that the class is written in.
    `register=False` gives a method that works but is in no list: for trying out, and for the tests of the checks.
    """

    def decorate(cls: type[M]) -> type[M]:
        made = dataclass(kw_only=True, eq=False)(cls)
        made.card = MethodCard(
            name=name,
            title=title,
            family=family or folder_of(cls),
            summary=summary,
            needs=frozenset(needs),
            signed=signed,
            class_specific=class_specific,
            citation=citation,
            cost=cost,
            stochastic=stochastic,
            target_kind=target_kind,
            hides=hides,
            autocast=autocast,
        )
        if register:
            METHODS.add(name, made)
        return made

    return decorate


@dataclass(eq=False)
class Method:
    """A map for each image of a batch. Subclasses are dataclasses of their options and implement `maps`.

    Args:
        model: from `seewhy.load_model` or `seewhy.wrap`.

    Raises:
        RequirementError: the model does not offer what the method needs (before any forward).
        OptionError: an option cannot have this value.
    """

    model: VisionModel
    card: ClassVar[MethodCard]
    scores_once: ClassVar[bool] = False
    """Whether `compute` scores its target exactly once, in a forward of the image itself.

    A target such as "top-1" becomes a class by the model's answer to the image. By default a forward of its own settles
    it before `compute`, because a method may score variants of the image, for which the answer could be another. A
    method that says True here saves that forward; scoring a second time then raises.
    """

    def __post_init__(self) -> None:
        check_options(self)
        why = self.why_incompatible(self.model)
        if why:
            working = [m.card.name for m in METHODS.values() if not m.why_incompatible(self.model)]
            raise RequirementError(
                f"{self.card.title} cannot serve {self.model.name}: {why}; these can: {', '.join(working) or 'none'}"
            )
        self.setup()

    @classmethod
    def why_incompatible(cls, model: VisionModel) -> str:
        """Why the method cannot serve the model; empty if it can."""
        missing = model.missing_capabilities(cls.card.needs)
        return f"it needs {' and '.join(missing)}" if missing else ""

    def setup(self) -> None:
        """Settle options that depend on the model (layers by name), before any forward."""

    def compute(
        self, x: Float[Tensor, "batch channels height width"], target: Target
    ) -> Float[Tensor, "batch rows cols"]:
        """The maps. Called in no-grad mode on a safe copy of the batch; `target` is made and checked."""
        raise NotImplementedError

    @property
    def cost(self) -> Cost:
        """Passes per image with these options (one forward more if a top-k target must be settled first)."""
        return self.card.cost(self)

    @property
    def shares_forwards(self) -> bool:
        """Whether several targets of one image cost the forwards of one (`image_index=` of a call): without gradients, yes."""
        return Capability.GRADIENTS not in self.card.needs

    @property
    def cut_layer(self) -> Layer | None:
        """The layer at which the method cuts the model, if it does."""
        return getattr(self, "layer_", None)

    @property
    def options(self) -> dict[str, Any]:
        """The options, JSON-able, for manifests."""
        values = {name: getattr(self, name) for name in options_of(type(self))}
        return {k: v if isinstance(v, (int, float, str, bool, type(None))) else str(v) for k, v in values.items()}

    def __call__(
        self,
        x: Float[Tensor, "batch channels height width"],
        target: TargetLike = None,
        image_index: Sequence[int] | None = None,
    ) -> Float[Tensor, "maps rows cols"]:
        """Explain a preprocessed batch.

        Args:
            x: the batch as the model takes it; another floating-point type is converted, as `model.preprocess_images` does.
            target: one for all images or one for each (see `seewhy.targets.as_target`); by default the class
                that the model answers. Label-free methods ignore it.
            image_index: for several targets of one image: the image that each map is of, a row of `x`; the targets are then
                one for each map. Methods that only run the model forward run each image once for all its targets.

        Returns:
            float32 maps on the method's own grid, signed where the card says so, not normalized.
            The call ends with one synchronization with the device, for the check of the values.

        Raises:
            TargetError: no such target. NonFiniteError: the model or the map gives NaN or infinity.
        """
        if image_index is None or not len(x):
            return self.run(x, target, self.compute)
        if not self.card.class_specific:
            return self.run(x, target, self.compute)[list(image_index)]
        with self.model.shared_images(image_index) if self.shares_forwards else nullcontext():
            return self.run(x[list(image_index)], target, self.compute)

    def run(
        self, x: Tensor, target: TargetLike, compute: Callable[[Tensor, Target], Tensor]
    ) -> Float[Tensor, "batch ..."]:
        """What a call does around `maps`, around `compute`: for methods that have more than a map to give."""
        _check_batch(x, self.model)
        goal = self._goal(target, len(x))
        with (
            self.model.shape_error_context(x),
            torch.inference_mode(False),
            torch.no_grad(),
            untouched(self.model.module),
        ):
            x = x.detach().clone() if x.is_inference() or x.requires_grad else x
            x = x.to(self.model.dtype)
            if goal.depends_on_output and not self.scores_once:
                goal = goal.fixed(self.model.run(x))
            watched = _Watched(goal, [])
            maps = compute(x, watched).float()
        _check_finite(maps, watched, self.model.name)
        return maps

    def _goal(self, target: TargetLike, batch: int) -> Target:
        if not self.card.class_specific:
            return _Nothing()
        goal = self.model.as_target(target)
        for each in goal.targets if isinstance(goal, PerImage) else (goal,):
            if each.need not in self.model.capabilities:
                Output().require(each.need)
        goal.check(batch, self.model.classes)
        self.check_target(goal)
        return goal

    def check_target(self, target: Target) -> None:
        """Raise `TargetError` if the method makes no sense for this kind of target."""


class _Nothing(Target):
    """The target of label-free methods."""

    kind = "none"
    need = Capability.EMBEDDING

    def score(self, output: Output) -> Tensor:
        raise AssertionError("a label-free method asked for a score")


class _Watched(Target):
    """A target that also notes, without synchronizing, whether the model's answers were finite."""

    def __init__(self, target: Target, finite: list[Tensor]) -> None:
        self._target, self.finite = target, finite
        self._scored = False

    @property
    def need(self) -> Capability:  # type: ignore[override]
        return self._target.need

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        self._ensure_settled(self._scored)
        self._scored = True
        self.finite.append(torch.isfinite(output.require(self.need).detach()).flatten(1).all())
        return self._target.score(output)

    def at(self, rows: Sequence[int]) -> Target:
        self._ensure_settled(True)
        return _Watched(self._target.at(rows), self.finite)

    def fixed(self, output: Output) -> Target:
        return _Watched(self._target.fixed(output), self.finite)

    def _ensure_settled(self, again: bool) -> None:
        if again and self._target.depends_on_output:
            raise RuntimeError(
                "the method says scores_once, but scores its target several times: a target such as top-1 could be "
                "another class each time; remove scores_once = True"
            )

    @property
    def depends_on_output(self) -> bool:
        return self._target.depends_on_output


def _check_batch(x: Any, model: VisionModel) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ModelError(
            f"a method takes a preprocessed float batch (B, C, H, W), not {got}; "
            "for photos use seewhy.explain, or model.preprocess_images(images)"
        )
    if not len(x):
        raise ModelError("the batch is empty; give at least one image")
    if x.device != model.device:
        raise ModelError(
            f"the batch is on {x.device}, the model on {model.device}; move one: batch.to({str(model.device)!r})"
        )


def _check_finite(maps: Tensor, watched: _Watched, name: str) -> None:
    """One synchronization for all checks."""
    rows = torch.isfinite(maps).flatten(1).all(1)
    verdict = torch.stack([*watched.finite, rows.all()]).tolist()
    if not all(verdict[:-1]):
        raise NonFiniteError(
            f"{name} gives NaN or infinite scores for this input; check the weights, "
            "the preprocessing, and whether half precision overflows"
        )
    if not verdict[-1]:
        bad = (~rows).nonzero().flatten().tolist()
        raise NonFiniteError(
            f"the map is NaN or infinite for image {', '.join(map(str, bad))} of the batch; "
            f"check {name}'s weights and whether half precision overflows"
        )


def gradient(score: Float[Tensor, "batch"], at: Tensor, keep: bool = False) -> Tensor:
    """∂ Σ score / ∂ at: gradients of each image's own score, with nothing else differentiated.

    With `keep` another backward can follow.

    Raises:
        ModelError: the score does not depend on `at` at all, or the model hides it from autograd.
    """
    grad = None
    if score.requires_grad:
        (grad,) = backward(score, at, torch.ones_like(score), keep)
    if grad is None:
        raise ModelError(
            "the score has no gradient: the target is constant, the layer does not lead to it, or the "
            "model's forward switches gradients off; use another target or layer, or lafam"
        )
    return grad


def activation_and_gradient(model: VisionModel, x: Tensor, layer: Layer, target: Target) -> tuple[Tensor, Tensor]:
    """A layer's raw output and ∂ score / ∂ output, from one forward; gradients exist above the layer only."""
    with model.leaf_at(layer) as leaf:
        score = target.score(model.run(x))
    return leaf[0].detach(), gradient(score, leaf[0])


def input_gradient(model: VisionModel, x: Tensor, target: Target) -> Tensor:
    """∂ score / ∂ x, the shape of x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        score = target.score(model.run(x))
    return gradient(score, x)


def all_scores_equal(scores: Float[Tensor, "batch n"]) -> Bool[Tensor, "batch"]:
    """Whether all n > 1 scores of an image are one number, up to float32 rounding; NaN is not."""
    return flat_rows(scores) & (scores.shape[1] > 1)


def chunks(n: int, batch: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Ranges [start, stop) that cut `n` repetitions of a batch into passes of about `batch_size` images."""
    step = max(1, batch_size // batch)
    for start in range(0, n, step):
        yield start, min(n, start + step)


def noise(shape: Sequence[int], start: int, stop: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal draws `start`…`stop`, (draws, *shape), one at a time so that chunking does not change them.

    Draw i must follow draw i − 1 on the same generator. Every image of a batch gets the same noise: a batch
    equals its images alone, whatever their order.
    """
    draws = [
        torch.randn(shape, generator=generator, device=like.device, dtype=torch.float32) for _ in range(start, stop)
    ]
    return torch.stack(draws).to(like.dtype)


def tiled(target: Target, batch: int, n: int) -> Target:
    """The target for `n` whole batches one after the other."""
    return target.at(tiled_rows(batch, n))


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """A generator of the method's own, so that the global random state is not touched."""
    return torch.Generator(device).manual_seed(seed)


BATCH_SIZE = "images per forward pass when one image is run many times (memory against speed; the map is the same)"

__all__ = [
    "BATCH_SIZE",
    "Method",
    "activation_and_gradient",
    "all_scores_equal",
    "chunks",
    "gradient",
    "input_gradient",
    "make_generator",
    "noise",
    "option",
    "tiled",
    "upcast",
]
