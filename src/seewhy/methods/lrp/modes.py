"""Base of the LRP methods: a forward whose backward propagates relevance, and its starting point."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.errors import ModelError
from seewhy.models.instrument.hooks import backward
from seewhy.models.instrument.modes import BackwardMode, Operation
from seewhy.targets import Output, Target

ACTIVATIONS = (
    "relu",
    "relu6",
    "hardtanh",
    "clamp",
    "leaky_relu",
    "prelu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "softplus",
    "softsign",
)
"""Functions of one number that pass relevance on as it is."""

Starts = Iterable[tuple[Tensor, Tensor]]
"""Pairs of a value and what goes down from it."""


class RelevanceMode(BackwardMode):
    """In the block, the backward of a forward hands down relevance, or relevance divided by the value."""

    def refuse(self, operation: Operation, *_: Any) -> NoReturn:
        """Stop at an operation that no rule fits.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            f"LRP has no rule for {getattr(operation, '__name__', operation)} in this model; "
            "use input_x_gradient or integrated_gradients"
        )


def pixel_relevance(
    x: Float[Tensor, "batch channels height width"],
    mode: RelevanceMode,
    run: Callable[[Tensor], Any],
    start: Callable[[Any], Starts],
) -> Float[Tensor, "batch channels height width"]:
    """Return what the rules hand down to the pixels.

    Autocast is off: rules divide by activations, and what comes down spans many decades.

    Args:
        x: The batch.
        mode: The rules of this forward.
        run: The forward, from pixels to some output.
        start: From that output to where the way down begins.

    Raises:
        ModelError: When the output does not depend on the pixels.
    """
    with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
        pixels = x.detach().requires_grad_()
        with mode:
            output = run(pixels.clone())
        starts = [(value, upper) for value, upper in start(output) if value.requires_grad]
        # Outside of the mode: what the backward computes anew is plain, on the CPU as on the threads of a GPU.
        return _at_pixels(starts, pixels)


def output_gradients(output: Output, target: Target) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of what the target reads and ∂ score / ∂ it: how the target begins its way down.

    Returns:
        No pair if the target is constant.
    """
    leaves = {
        name: value.detach().requires_grad_()
        for name in ("logits", "embedding", "segmentation")
        if (value := getattr(output, name)) is not None
    }
    with torch.enable_grad():
        score = target.score(Output(**leaves))
    if not score.requires_grad:
        return []
    gradients = torch.autograd.grad(score, list(leaves.values()), torch.ones_like(score), allow_unused=True)
    pairs = zip(leaves, gradients, strict=True)
    return [(getattr(output, name), gradient) for name, gradient in pairs if gradient is not None]


def _at_pixels(starts: list[tuple[Tensor, Tensor]], pixels: Tensor) -> Tensor:
    relevance = None
    if starts:
        values, uppers = zip(*starts, strict=True)
        relevance = backward(values, pixels, uppers)[0]
    if relevance is None:
        raise ModelError(
            "no relevance comes down: the target is constant, or the model's forward switches gradients "
            "off (no gradient); use another target, or lafam"
        )
    return relevance
