"""Batches of training: images, their augmentation, the window and the learning rate of a step.

All are functions of (seed, step) alone, so a run can be resumed at any step.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from seewhy.models.reference.scenes import MEAN, STD
from seewhy.training.pool import Pool
from seewhy.training.recipes import Recipe


def rate_at(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: a linear rise, then half a cosine down to zero."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def window_at(recipe: Recipe, step: int, side: int, width: int = 8) -> Int[ndarray, " m"] | None:
    """Return the patches of a random square window, or None for a step that looks at the whole image.

    Args:
        recipe: Of the run.
        step: Number of the step.
        side: Patches along one side of the image.
        width: Patches along one side of the window.
    """
    if step >= recipe.window * recipe.steps or side <= width:
        return None
    top, left = np.random.default_rng([recipe.seed, 3, step]).integers(0, side - width + 1, 2)
    return np.arange(side * side).reshape(side, side)[top : top + width, left : left + width].ravel()


def batch_at(
    pool: Pool, recipe: Recipe, step: int, share: slice = slice(None)
) -> tuple[UInt8[ndarray, "b h w 3"], Float[ndarray, "b classes"]]:
    """Return the images and targets of a step: shuffled once per epoch, then augmented.

    Args:
        pool: The training set.
        recipe: Of the run.
        step: Number of the step.
        share: The part of the batch that is taken.
    """
    per_epoch = max(1, len(pool) // recipe.batch)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([recipe.seed, 1, epoch]).permutation(len(pool))
    chosen = np.sort(order[place * recipe.batch : (place + 1) * recipe.batch])[share]
    images = np.array(pool.images[chosen])
    if recipe.augment:
        _augment(np.random.default_rng([recipe.seed, 2, step, share.start or 0]), images)
    return images, pool.targets[chosen]


def _augment(rng: np.random.Generator, images: UInt8[ndarray, "b h w 3"]) -> None:
    """Mirror half of the images, permute color channels, and darken or brighten, in place."""
    for image, mirror in zip(images, rng.random(len(images)) < 0.5, strict=True):
        view = image[:, ::-1] if mirror else image
        gain = rng.uniform(0.7, 1.3)
        table = np.clip(np.arange(256) * gain, 0, 255).astype(np.uint8)
        image[:] = table[view[..., rng.permutation(3)]]


def normalize_images(images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Turn bytes into the models' input."""
    mean, std = (torch.tensor(v, device=images.device) for v in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
