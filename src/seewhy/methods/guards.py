"""Guards around a method: checks of the batch and of the results, and watched targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.cards import Capability
from seewhy.errors import ModelError, NonFiniteError
from seewhy.models.adapter import VisionModel
from seewhy.targets import Output, Target


class NoTarget(Target):
    """The target of label-free methods."""

    kind = "none"
    need = Capability.EMBEDDING

    def score(self, output: Output) -> Tensor:
        """Refuse: there is nothing to score.

        Raises:
            AssertionError: Always; the method's card is wrong.
        """
        raise AssertionError("a label-free method scored a target; say class_specific=True on its card")


class WatchedTarget(Target):
    """A target that also notes, without synchronizing, whether the model's answers were finite, and the first answer.

    Args:
        target: What is watched.
        finite: For the notes.

    Attributes:
        answer: The output that was scored first, without its graph.
    """

    def __init__(self, target: Target, finite: list[Tensor]) -> None:
        self._target, self.finite = target, finite
        self._scored = False
        self.answer: Output | None = None

    @property
    def need(self) -> Capability:  # type: ignore[override]
        """The part of the output that the target reads."""
        return self._target.need

    @property
    def depends_on_output(self) -> bool:
        """Whether the target does."""
        return self._target.depends_on_output

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Compute the target's numbers, and note whether the answers are finite.

        Raises:
            RuntimeError: The target depends on the answer and is scored again.
        """
        self._ensure_settled(self._scored)
        self._scored = True
        self.answer = self.answer or output.map(Tensor.detach)
        self.finite.append(torch.isfinite(output.require(self.need).detach()).flatten(1).all())
        return self._target.score(output)

    def at(self, rows: Sequence[int]) -> Target:
        """Return the watched target of these rows."""
        self._ensure_settled(True)
        return WatchedTarget(self._target.at(rows), self.finite)

    def fixed(self, output: Output) -> Target:
        """Return the watched target, settled by this output."""
        return WatchedTarget(self._target.fixed(output), self.finite)

    def fork(self) -> WatchedTarget:
        """Return the same target with notes of its own."""
        return WatchedTarget(self._target, [])

    def join(self, fork: WatchedTarget) -> None:
        """Take over the notes of a fork."""
        self.finite += fork.finite
        self.answer = fork.answer
        self._scored = True

    def _ensure_settled(self, again: bool) -> None:
        if again and self._target.depends_on_output:
            raise RuntimeError(
                "the method says scores_once, but scores its target several times: a target such as top-1 could be "
                "another class each time; remove scores_once = True"
            )


@contextmanager
def on_trial(target: Target) -> Iterator[Target]:
    """Yield a target whose scores do not count if the block ends with an exception: something else is tried then."""
    if not isinstance(target, WatchedTarget):
        yield target
        return
    trial = target.fork()
    yield trial
    target.join(trial)


def check_model(model: Any) -> None:
    """Check that a method is given a `VisionModel`.

    Raises:
        ModelError: It is a plain module, or something else.
    """
    if isinstance(model, VisionModel):
        return
    advice = "wrap it first: seewhy.wrap(module)" if isinstance(model, nn.Module) else "pass one of seewhy.load_model"
    raise ModelError(f"a {type(model).__name__} is not a model of seewhy; {advice}")


def check_batch(x: Any, model: VisionModel) -> None:
    """Check that `x` is a preprocessed batch on the model's device.

    Raises:
        ModelError: When it is not.
    """
    axes = model.structure.axes
    if not isinstance(x, Tensor) or x.ndim != 2 + axes or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ModelError(
            f"a method takes a preprocessed float batch ({'B, C, H, W' if axes == 2 else 'B, C, D, H, W'}), got {got}; "
            "for images use seewhy.explain, or model.preprocess_images(images)"
        )
    if not len(x):
        raise ModelError("the batch is empty; give at least one image")
    if x.device != model.device:
        raise ModelError(
            f"the batch is on {x.device}, the model on {model.device}; move one: batch.to({str(model.device)!r})"
        )


def check_finite(maps: Tensor, watched: WatchedTarget, name: str) -> None:
    """Check the model's answers and the maps, with one synchronization.

    Raises:
        NonFiniteError: When one of them is NaN or infinite.
    """
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
