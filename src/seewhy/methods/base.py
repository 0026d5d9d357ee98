"""Base of methods: checks before any forward, safe runs, and no NaN in results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, dataclass_transform

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, MethodCard, folder_of
from seewhy.core.maps import upcast
from seewhy.core.options import Configurable, check_options, option, options_of
from seewhy.core.registry import Registry
from seewhy.errors import RequirementError
from seewhy.methods.gradients import activation_and_gradient, gradient, input_gradient, input_leaf, row_gradients
from seewhy.methods.guards import NoTarget, WatchedTarget, check_batch, check_finite, check_model
from seewhy.methods.repetition import (
    BATCH_SIZE,
    all_scores_equal,
    chunks,
    images_per_pass,
    make_generator,
    noise,
    repeat_target,
)
from seewhy.methods.rounds import in_rounds, rows_of
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.models.structure import Layer
from seewhy.targets import Output, PerImage, Target, TargetLike

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
    volumes: bool = False,
    autocast: str = "",
    trained: bool = False,
    register: bool = True,
) -> Callable[[type[M]], type[M]]:
    """Make a class a method: a dataclass of its options with a card, entered in `METHODS`.

    Args:
        name: Name on the command line.
        title: Name as people write it.
        summary: One sentence: what the map shows.
        needs: What the model must offer.
        signed: Whether negative values mean evidence against the target (a method may have an option `signed`; this is
            then its default).
        class_specific: Whether the map depends on the target.
        citation: Paper and equation.
        cost: Passes as a function of the configured method.
        family: By default the folder that the class is written in.
        stochastic: Whether the method draws random numbers, always from its option `seed`.
        target_kind: The only kind of target that makes sense, if there is one.
        hides: Whether 0 means that nothing is shown there.
        volumes: Whether it serves 3-D models as well: maps (B, depth, rows, cols) of volumes.
        autocast: Empty, or the reason why the method must not run under autocast.
        trained: Whether the method is fitted first (`seewhy train`) and then given its `weights`.
        register: Whether the method enters `METHODS`; False is for trying out, and for the tests of the checks.
    """

    def decorate(cls: type[M]) -> type[M]:
        cls = dataclass(kw_only=True, eq=False)(cls)
        cls.card = MethodCard(
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
            volumes=volumes,
            autocast=autocast,
            trained=trained,
        )
        if register:
            METHODS.add(name, cls)
        return cls

    return decorate


@dataclass(eq=False)
class Method(Configurable):
    """A map for each image of a batch. Subclasses are dataclasses of their options and implement `compute`.

    Args:
        model: The model, from `seewhy.load_model` or `seewhy.wrap`.

    Raises:
        RequirementError: When the model does not offer what the method needs (before any forward).
        OptionError: When there is no such option, or it does not accept the value.
    """

    model: VisionModel
    card: ClassVar[MethodCard]
    scores_once: ClassVar[bool] = False
    """Whether `compute` scores its target exactly once, in a forward of the image itself.

    A target such as "top-1" becomes a class by the model's answer to the image. By default a forward of its own settles
    it before `compute`, because a method may score variants of the image, for which the answer could be another. A
    method that says True here saves that forward; scoring a second time then raises.
    """

    shares_gradients: ClassVar[bool] = False
    """Whether a method with gradients runs an image forward once for all its targets, and backward once for each."""

    def __post_init__(self) -> None:
        check_model(self.model)
        check_options(self)
        why = self.why_incompatible(self.model)
        if why:
            untrained = [m for m in METHODS.values() if not m.card.trained]
            working = [m.card.name for m in untrained if not m.why_incompatible(self.model)]
            raise RequirementError(
                f"{self.card.title} cannot serve {self.model.name}: {why}; these can: {', '.join(working) or 'none'}"
            )
        self.setup()

    @classmethod
    def why_incompatible(cls, model: VisionModel) -> str:
        """Say why the method cannot serve the model; empty if it can.

        Raises:
            ModelError: It is a module as such, not opened yet.
        """
        check_model(model)
        if model.structure.volume and not cls.card.volumes:
            return "it explains images, and the model takes volumes"
        missing = model.missing_capabilities(cls.card.needs)
        return f"it needs {' and '.join(missing)}" if missing else ""

    def setup(self) -> None:
        """Settle options that depend on the model (layers by name), before any forward."""

    def compute(self, x: Float[Tensor, "batch channels *size"], target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps; called in no-grad mode.

        Args:
            x: A copy of the batch, in the model's type.
            target: The checked target; see `scores_once`.
        """
        raise NotImplementedError

    @property
    def cost(self) -> Cost:
        """Passes per image with these options (one forward more if a top-k target must be settled first)."""
        return self.card.cost(self)

    @property
    def shares_forwards(self) -> bool:
        """Whether several targets of one image (`image_index`) cost the forwards of one."""
        return self.shares_gradients or Capability.GRADIENTS not in self.card.needs

    @property
    def is_signed(self) -> bool:
        """Whether negative values mean evidence against the target: as the card, unless an option `signed` decides."""
        return bool(getattr(self, "signed", self.card.signed))

    @property
    def cut_layer(self) -> Layer | None:
        """The layer at which the method cuts the model, if it does."""
        return getattr(self, "layer_", None)

    @property
    def layer_name(self) -> str | None:
        """The name of the layer at which the method cuts the model, or of those that it averages; None: of none."""
        layers: Sequence[Layer] = getattr(self, "layers_", ()) or [layer for layer in [self.cut_layer] if layer]
        return " + ".join(layer.name for layer in layers) or None

    @property
    def options(self) -> dict[str, Any]:
        """The options, JSON-able, for manifests."""
        values = {name: getattr(self, name) for name in options_of(type(self))}
        return {k: v if isinstance(v, (int, float, str, bool, type(None))) else str(v) for k, v in values.items()}

    def __call__(
        self,
        x: Float[Tensor, "batch channels *size"],
        target: TargetLike = None,
        image_index: Sequence[int] | None = None,
    ) -> Float[Tensor, "maps *grid"]:
        """Explain a preprocessed batch.

        Args:
            x: The batch as the model takes it; another floating-point type is converted.
            target: One for all images or one for each (see `seewhy.targets.as_target`); by default the class that the
                model answers. Label-free methods ignore it.
            image_index: For several targets of one image: the row of `x` that each map is of; the targets are then one
                for each map. Where `shares_forwards`, each image runs forward once for all its targets.

        Returns:
            float32 maps on the method's own grid, signed where the card says so, not normalized. The call ends with one
            synchronization with the device, for the check of the values.

        Raises:
            TargetError: When there is no such target.
            NonFiniteError: When the model or the map gives NaN or infinity.
        """
        return self.maps_and_answer(x, target, image_index)[0]

    @property
    def tells_the_answer(self) -> bool:
        """Whether `maps_and_answer` has the model's answer to the images, from no more forwards than the maps need."""
        return (self.scores_once and self.card.class_specific) or type(self).complete is not Method.complete

    def maps_and_answer(
        self,
        x: Float[Tensor, "batch channels *size"],
        target: TargetLike = None,
        image_index: Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "maps *grid"], Output | None]:
        """Explain a preprocessed batch, as a call does.

        Args:
            x: As in a call.
            target: As in a call.
            image_index: As in a call.

        Returns:
            The maps, and what the model answers to the image of each (None unless `tells_the_answer`).

        Raises:
            SeewhyError: As a call.
        """
        if image_index is None or not len(x):
            return self._guarded(x, target, self.compute)
        if not self.card.class_specific:
            return self._guarded(x, target, self.compute)[0][list(image_index)], None
        with self.model.shared_images(image_index) if self.shares_forwards else nullcontext():
            return self._guarded(x[list(image_index)], target, self.compute)

    def complete(self, x: Tensor) -> tuple[Float[Tensor, "batch *grid"], Output]:
        """Compute the maps of a label-free method by a forward that goes on to the answer; called as `compute` is."""
        raise NotImplementedError

    def complete_maps(self, x: Float[Tensor, "batch channels *size"]) -> tuple[Tensor, Output]:
        """Return the maps of a label-free method and the model's answer, from one forward.

        Raises:
            SeewhyError: As a call.
        """
        answers: list[Output] = []

        def compute(x: Tensor, _: Target) -> Tensor:
            maps, answer = self.complete(x)
            answers.append(answer)
            return maps

        return self._guarded(x, None, compute)[0], answers[0]

    def _guarded(
        self, x: Tensor, target: TargetLike, compute: Callable[[Tensor, Target], Tensor]
    ) -> tuple[Float[Tensor, "batch ..."], Output | None]:
        """Do what a call does around `compute`, around another function: for methods with more than a map to give.

        Returns:
            What it computes, and the model's answer where the target is scored once.
        """
        check_batch(x, self.model)
        resolved = self._resolve_target(target, len(x))
        with (
            self.model.shape_error_context(x),
            torch.inference_mode(False),
            torch.no_grad(),
            untouched(self.model.module),
        ):
            x = x.detach().clone() if x.is_inference() or x.requires_grad else x
            x = x.to(self.model.dtype)
            if resolved.depends_on_output and not self.scores_once:
                resolved = resolved.fixed(self.model.run(x))
            watched = WatchedTarget(resolved, [])
            maps = compute(x, watched).float()
        check_finite(maps, watched, self.model.name)
        return maps, watched.answer if self.scores_once else None

    def _resolve_target(self, target: TargetLike, batch: int) -> Target:
        """Make a target of what a user writes, and check that it fits the model, the batch and the method."""
        if not self.card.class_specific:
            return NoTarget()
        resolved = self.model.as_target(target)
        for each in resolved.targets if isinstance(resolved, PerImage) else (resolved,):
            if each.need not in self.model.capabilities:
                Output().require(each.need)
        resolved.check(batch, self.model.classes)
        self.check_target(resolved)
        return resolved

    def check_target(self, target: Target) -> None:
        """Raise `TargetError` if the method makes no sense for this kind of target."""


__all__ = [
    "BATCH_SIZE",
    "METHODS",
    "Method",
    "activation_and_gradient",
    "all_scores_equal",
    "chunks",
    "gradient",
    "images_per_pass",
    "in_rounds",
    "input_gradient",
    "input_leaf",
    "make_generator",
    "method",
    "noise",
    "option",
    "repeat_target",
    "row_gradients",
    "rows_of",
    "upcast",
]
