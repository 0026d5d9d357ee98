"""Relevance through functions without weights: sums, averages, and what is done to an image before the first layer.

A constant, which does not depend on the image (the mean in a normalization that is part of the model, a shift, a
buffer), passes relevance on and takes no share: flat, z⁺, γ and z^B do not hand down in proportion to x − μ, so that a
share of x / (x − μ) would grow without bound where x is near μ.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from seewhy.errors import ModelError
from seewhy.methods.baselines import starting_images
from seewhy.methods.lrp.modes import ACTIVATIONS
from seewhy.methods.lrp.rules import CONVOLUTIONS, WeightedLayer, stabilized
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import Stop
from seewhy.models.instrument.modes import Operation, is_tracked, with_backward

_SHIFTS = ("add", "radd", "iadd", "sub", "isub", "rsub")
SUMS = (
    *_SHIFTS,
    "mean",
    "sum",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "interpolate",
)
"""Names of operations that are linear in their tensors, without weights."""

PRODUCTS = ("mul", "rmul", "imul", "div", "truediv", "idiv", "itruediv")
"""Names of products."""

PASS = (
    *ACTIVATIONS,
    "sigmoid",
    "tanh",
    "hardsigmoid",
    "neg",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "rms_norm",
    "local_response_norm",
)
"""Names of functions that hand relevance on as it is."""


def sum_rule(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], epsilon: float) -> Tensor:
    """Run a linear function without weights: each tensor gets its share of the result, a constant none."""
    signals = [argument for argument in args[:2] if is_tracked(argument)]
    if operation.__name__.strip("_") in _SHIFTS and len(signals) == 1:
        return passed_on(operation, args, kwargs, signals[0])
    return shared_in_proportion(operation, args, kwargs, epsilon)


def passed_on(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], signal: Tensor) -> Tensor:
    """Run an operation of one signal and a constant: relevance goes to the signal, whole."""
    shape = signal.shape
    return with_backward(
        lambda: operation(*args, **kwargs), lambda _, upper: (upper.sum_to_size(shape),), signal, saved=()
    )


def shared_in_proportion(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], epsilon: float) -> Tensor:
    """Run a function z that is linear in all its tensors together: R_i = x_i ∂z/∂x_i · R / (z + ε sign z).

    Raises:
        ModelError: When no tensor stands among the positional arguments.
    """
    places = [place for place, argument in enumerate(args) if is_tracked(argument)]
    if not places:
        raise ModelError(f"LRP cannot follow {operation.__name__} here; use input_x_gradient")

    def backward(saved: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in saved]
        arguments = list(args)
        for place, leaf in zip(places, leaves, strict=True):
            arguments[place] = leaf
        with torch.enable_grad():
            z = operation(*arguments, **kwargs)
        gradients = torch.autograd.grad(z, leaves, upper / stabilized(z.detach(), epsilon))
        return [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]

    return with_backward(lambda: operation(*args, **kwargs), backward, *(args[place] for place in places))


def input_bounds(model: VisionModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest values of the first layer's input: of black and white as they arrive there.

    Args:
        model: The model; what it does to an image before its first layer counts.
        x: A batch, for its size.

    Raises:
        ModelError: When the model has no layer with weights.
    """
    ends = torch.cat([starting_images(model, x[:1], color) for color in ("black", "white")])
    first = _FirstLayer()
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False), suppress(Stop), first:
        model.module(ends, **model.structure.call)
    if first.input is None:
        raise ModelError("the z^B rule needs a layer with weights; use composite='epsilon_plus_flat'")
    return first.input.amin(0, keepdim=True), first.input.amax(0, keepdim=True)


class _FirstLayer(TorchFunctionMode):
    """Ends a forward at the first layer with weights, and keeps its input."""

    input: Tensor | None = None

    def __torch_function__(
        self, func: Operation, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in (*CONVOLUTIONS, "linear"):
            self.input = WeightedLayer.of_call(func, args, kwargs or {})[1]
            raise Stop
        return func(*args, **(kwargs or {}))
