"""Running one batch many times: chunks, noise, targets for repeated batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.maps import flat_rows
from seewhy.targets import Target, tiled_rows

BATCH_SIZE = (
    "images per forward pass when one image is run many times, of 224 × 224 pixels; of larger ones as many fewer "
    "(memory against speed; the map is the same)"
)
"""Help text of the option `batch_size`."""

PIXELS = 224 * 224
"""Size of the images that the option `batch_size` counts."""


def images_per_pass(batch_size: int, x: Tensor) -> int:
    """Return how many images like those of a batch go through the model at a time.

    Args:
        batch_size: How many of 224 × 224 pixels do. Of larger images as many fewer, so that what a pass keeps does not
            grow with them; of smaller ones not more.
        x: The batch.
    """
    return max(1, min(batch_size, batch_size * PIXELS // x.shape[2:].numel()))


def chunks(n: int, batch: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges [start, stop) that cut `n` repetitions of a batch into passes of about `batch_size` images."""
    step = max(1, batch_size // batch)
    for start in range(0, n, step):
        yield start, min(n, start + step)


def repeat_target(target: Target, batch: int, n: int) -> Target:
    """Return the target of `n` whole batches one after the other."""
    return target.at(tiled_rows(batch, n))


def make_generator(seed: int, device: torch.device) -> torch.Generator:
    """Return a generator of the method's own, so that the global random state is not touched."""
    return torch.Generator(device).manual_seed(seed)


def noise(shape: Sequence[int], start: int, stop: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw samples `start` … `stop` of standard normal noise, one at a time so that chunking does not change them.

    Every image of a batch gets the same noise: a batch equals its images alone, whatever their order.

    Args:
        shape: Shape of one sample.
        start: Number of the first sample.
        stop: Number after the last sample.
        generator: Source of the noise; sample i must follow sample i − 1 on the same generator.
        like: A tensor on the wanted device, of the wanted type.

    Returns:
        The samples, (stop − start, *shape).
    """
    samples = torch.empty((stop - start, *shape), device=like.device, dtype=torch.float32)
    for sample in samples:
        torch.randn(shape, generator=generator, out=sample)
    return samples.to(like.dtype)


def all_scores_equal(scores: Float[Tensor, "batch n"]) -> Bool[Tensor, "batch"]:
    """Tell for which images all n > 1 scores are one number, up to float32 rounding; NaN is not."""
    return flat_rows(scores) & (scores.shape[1] > 1)
