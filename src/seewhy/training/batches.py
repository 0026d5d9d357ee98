"""Training data of the reference models: images from a pool with their augmentation, and the window of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from seewhy.models.reference.scenes import MEAN, STD
from seewhy.training.pool import Pool
from seewhy.training.recipes import Recipe
from seewhy.training.task import Draw


class PoolData:
    """A pool as training data: bytes, which become the models' input on the device.

    Args:
        pool: The images and their targets.
        augment: Whether to mirror, permute the color channels and change the brightness.
    """

    def __init__(self, pool: Pool, augment: bool) -> None:
        self.pool, self.augment = pool, augment

    def __len__(self) -> int:
        return len(self.pool)

    def name(self, index: int) -> str:
        """Return the number of the scene."""
        return str(index)

    def batch(self, indices: Sequence[int], draw: Draw | None) -> dict[str, Tensor]:
        """Return `images` as bytes, and `targets`."""
        images = np.array(self.pool.images[list(indices)])
        if self.augment and draw is not None:
            for image, index in zip(images, indices, strict=True):
                _augment(draw(index), image)
        return {"images": torch.from_numpy(images), "targets": torch.from_numpy(self.pool.targets[list(indices)])}


def _augment(rng: np.random.Generator, image: UInt8[ndarray, "h w 3"]) -> None:
    """Mirror half of the images, permute color channels, and darken or brighten, in place."""
    view = image[:, ::-1] if rng.random() < 0.5 else image
    table = np.clip(np.arange(256) * rng.uniform(0.7, 1.3), 0, 255).astype(np.uint8)
    image[:] = table[view[..., rng.permutation(3)]]


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


def normalize_images(images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Turn bytes into the models' input."""
    mean, std = (torch.tensor(v, device=images.device) for v in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
