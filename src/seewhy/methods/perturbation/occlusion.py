"""Occlusion: what the score loses when a window of the image is covered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Cost
from seewhy.errors import OptionError
from seewhy.methods.base import BATCH_SIZE, Method, chunks, images_per_pass, method, option, repeat_target, upcast
from seewhy.methods.baselines import BASELINE, check_baseline, starting_images
from seewhy.targets import Target


@method(
    name="occlusion",
    title="Occlusion",
    summary="What the score loses when a square window of the image is covered.",
    needs=set(),
    signed=True,
    class_specific=True,
    volumes=True,
    citation="Zeiler & Fergus, Visualizing and Understanding Convolutional Networks (ECCV 2014), section 4.2",
    cost=lambda self: Cost.whole(self._windows() + 1),
)
class Occlusion(Method):
    """M_ij = f(x) − f(x with window ij covered), on the grid of windows.

    Cell ij is a window, and its center the window's center: the grid has ⌈H / stride⌉ × ⌈W / stride⌉ windows, whose
    centers divide the image evenly; at the borders a window larger than the stride sticks out. Where window = stride
    divides the image, captum's `Occlusion` gives each pixel the value of its cell; where windows overlap, captum
    averages over the windows that cover a pixel, and starts at the corner instead of half outside (its map is ours on
    a padded image). One forward for each window and one for the whole image; no gradients. Autocast is switched off:
    what a small window takes away is less than what bfloat16 rounds off. Of volumes a window is a box of voxels, whose
    sides are by default 1/8 of the volume's each.
    """

    window: int | None = option(
        default=None,
        help="side of the window in pixels; default: 1/8 of the shorter side (volumes: of each side)",
        at_least=1,
    )
    stride: int | None = option(default=None, help="pixels from window to window; default: the window", at_least=1)
    baseline: Any = option(default="mean", help=f"what covers: {BASELINE}, or a number")
    batch_size: int = option(default=32, help=BATCH_SIZE, at_least=1)

    def setup(self) -> None:
        """Check the baseline, and the window against the stride."""
        check_baseline(self.baseline)
        if self.window and self.stride and self.stride > self.window:
            raise OptionError(
                f"stride={self.stride} leaves gaps between windows of {self.window}; use {self.window} or less"
            )

    def _geometry(self, size: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the sides of the window, and the number of windows along each axis."""
        parts = size if len(size) == 3 else [min(size)] * 2  # voxels are seldom cubes, pixels are squares
        windows = [self.window or max(1, side // 8, self.stride or 1) for side in parts]
        return windows, [-(-side // (self.stride or window)) for side, window in zip(size, windows, strict=True)]

    def _windows(self) -> int:
        _, counts = self._geometry(getattr(self.model.preprocess, "size", None) or (224,) * self.model.structure.axes)
        return math.prod(counts)

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        size = tuple(x.shape[2:])
        windows, counts = self._geometry(size)
        if any(window > side for window, side in zip(windows, size, strict=True)):
            raise OptionError(
                f"window={windows[0]} is larger than the image ({'×'.join(map(str, size))}); use a smaller one"
            )
        along = [spans(n, side, w, x.device) for n, side, w in zip(counts, size, windows, strict=True)]
        with torch.autocast(x.device.type, enabled=False):
            whole = upcast(target.score(self.model.run(x)))
            cover = starting_images(self.model, x, self.baseline)
            rest = [
                self._scores(x, cover, [side[n] for side, n in zip(along, cell, strict=True)], target)
                for start, stop in chunks(math.prod(counts), len(x), images_per_pass(self.batch_size, x))
                for cell in [torch.unravel_index(torch.arange(start, stop, device=x.device), counts)]
            ]
        return (whole - torch.cat(rest)).T.unflatten(1, counts)

    def _scores(
        self,
        x: Tensor,
        cover: Tensor,
        along: Sequence[Tensor],
        target: Target,
    ) -> Float[Tensor, "windows batch"]:
        """Score the images with each window covered; `along` each axis (windows, side), which pixels are in it."""
        inside = along[0]
        for side in along[1:]:
            inside = inside[..., None] & side[(slice(None), *[None] * (inside.ndim - 1))]
        covered = torch.where(inside[:, None, None], cover, x).flatten(0, 1)
        score = repeat_target(target, len(x), len(inside)).score(self.model.run(covered))
        return upcast(score).unflatten(0, (-1, len(x)))


def spans(n: int, side: int, window: int, device: torch.device) -> Bool[Tensor, "n side"]:
    """Tell which pixels of a side lie in each of `n` windows; window i is centered on (i + ½) · side / n."""
    starts = ((2 * torch.arange(n, device=device) + 1) * side - window * n) // (2 * n)
    pixels = torch.arange(side, device=device)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + window)
