"""Gradients of a target's score: with respect to a tensor, a layer's output, or the input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.errors import ModelError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import NO_GRADIENT, backward
from seewhy.models.instrument.shared_images import ImageIndex
from seewhy.models.structure import Layer
from seewhy.targets import Target


def gradient(score: Float[Tensor, "rows"], at: Tensor, keep: bool = False, index: ImageIndex | None = None) -> Tensor:
    """Compute ∂ score / ∂ at: the gradient of each row's own score, with nothing else differentiated.

    Args:
        score: One number per row.
        at: The tensor that the score is differentiated by, a batch of images.
        keep: Whether another backward pass follows.
        index: Which image each row is of; None: each its own.

    Raises:
        ModelError: The score does not depend on `at` at all, or the model hides it from autograd.
    """
    (grad,) = row_gradients(score, [at], keep, index)
    if grad is None:
        raise ModelError(NO_GRADIENT)
    return grad


def row_gradients(
    score: Float[Tensor, "rows"], at: Sequence[Tensor], keep: bool = False, index: ImageIndex | None = None
) -> list[Tensor | None]:
    """Compute ∂ score / ∂ each of several tensors, row by row: a backward for each round of the index.

    Args:
        score: One number per row.
        at: Tensors of images.
        keep: Whether another backward pass follows.
        index: Which image each row is of; None: each its own.

    Returns:
        For each tensor a gradient with a row for each score; None where no score depends on it.
    """
    if not score.requires_grad:
        return [None] * len(at)
    if index is None:
        return list(backward(score, at, torch.ones_like(score), keep))
    rounds = [
        backward(score, at, torch.zeros_like(score).index_fill(0, rows.to(score.device), 1), keep or not last)
        for rows, last in index.rows_by_round
    ]
    joined = [None if any(g is None for g in grads) else torch.cat(grads) for grads in zip(*rounds, strict=True)]
    return [None if grads is None else index.from_rounds(grads) for grads in joined]


def activation_and_gradient(model: VisionModel, x: Tensor, layer: Layer, target: Target) -> tuple[Tensor, Tensor]:
    """Return a layer's raw output and ∂ score / ∂ output, from one forward with gradients above the layer only."""
    index = model.image_index
    with model.leaf_at(layer) as leaf:
        score = target.score(model.run(x))
    activation = leaf[0].detach()
    return index.expand(activation) if index else activation, gradient(score, leaf[0], index=index)


def input_gradient(model: VisionModel, x: Tensor, target: Target) -> Tensor:
    """Compute ∂ score / ∂ x, in the shape of x."""
    with input_leaf(model, x) as (leaf, index):
        score = target.score(model.run(leaf))
    return gradient(score, leaf, index=index)


@contextmanager
def input_leaf(model: VisionModel, x: Tensor) -> Iterator[tuple[Tensor, ImageIndex | None]]:
    """In the block, in grad mode, run the model on a leaf: of images that several targets share, one each.

    Yields:
        The leaf, and which row of `x` shows which of its images.
    """
    index = model.image_index
    leaf = (x if index is None else index.unique(x)).detach()
    with torch.enable_grad(), model.unique_images():
        yield leaf.requires_grad_(), index
