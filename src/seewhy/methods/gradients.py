"""Gradients of a target's score: with respect to a tensor, a layer's output, or the input."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.errors import ModelError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import backward
from seewhy.models.structure import Layer
from seewhy.targets import Target


def gradient(score: Float[Tensor, "batch"], at: Tensor, keep: bool = False) -> Tensor:
    """Compute ∂ Σ score / ∂ at: the gradient of each image's own score, with nothing else differentiated.

    Args:
        score: One number per image.
        at: The tensor that the score is differentiated by.
        keep: Whether another backward pass follows.

    Raises:
        ModelError: The score does not depend on `at` at all, or the model hides it from autograd.
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
    """Return a layer's raw output and ∂ score / ∂ output, from one forward with gradients above the layer only."""
    with model.leaf_at(layer) as leaf:
        score = target.score(model.run(x))
    return leaf[0].detach(), gradient(score, leaf[0])


def input_gradient(model: VisionModel, x: Tensor, target: Target) -> Tensor:
    """Compute ∂ score / ∂ x, in the shape of x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        score = target.score(model.run(x))
    return gradient(score, x)
