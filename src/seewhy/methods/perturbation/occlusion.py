"""Occlusion: what the score loses when a window of the image is covered."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Cost
from seewhy.errors import OptionError
from seewhy.methods.base import BATCH_SIZE, Method, chunks, method, option, repeat_target, upcast
from seewhy.methods.baselines import BASELINE, check_baseline, starting_images
from seewhy.targets import Target


@method(
    name="occlusion",
    title="Occlusion",
    summary="What the score loses when a square window of the image is covered.",
    needs=set(),
    signed=True,
    class_specific=True,
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
    what a small window takes away is less than what bfloat16 rounds off.
    """

    window: int | None = option(
        default=None, help="side of the window in pixels; default: 1/8 of the shorter side", at_least=1
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

    def _geometry(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the side of the window, and the rows and columns of windows."""
        window = self.window or max(1, min(height, width) // 8, self.stride or 1)
        stride = self.stride or window
        return window, -(-height // stride), -(-width // stride)

    def _windows(self) -> int:
        _, rows, cols = self._geometry(*(getattr(self.model.preprocess, "size", None) or (224, 224)))
        return rows * cols

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        window, rows, cols = self._geometry(*x.shape[-2:])
        if window > min(x.shape[-2:]):
            raise OptionError(
                f"window={window} is larger than the image ({x.shape[-2]}×{x.shape[-1]}); use a smaller one"
            )
        down, across = (spans(n, side, window, x.device) for n, side in ((rows, x.shape[-2]), (cols, x.shape[-1])))
        with torch.autocast(x.device.type, enabled=False):
            whole = upcast(target.score(self.model.run(x)))
            cover = starting_images(self.model, x, self.baseline)
            rest = [
                self._scores(x, cover, down[i // cols], across[i % cols], target)
                for start, stop in chunks(rows * cols, len(x), self.batch_size)
                for i in [torch.arange(start, stop, device=x.device)]
            ]
        return (whole - torch.cat(rest)).T.unflatten(1, (rows, cols))

    def _scores(
        self,
        x: Tensor,
        cover: Tensor,
        down: Bool[Tensor, "windows height"],
        across: Bool[Tensor, "windows width"],
        target: Target,
    ) -> Float[Tensor, "windows batch"]:
        """Score the images with each window covered."""
        inside = (down[:, :, None] & across[:, None, :])[:, None, None]
        covered = torch.where(inside, cover, x).flatten(0, 1)
        score = repeat_target(target, len(x), len(down)).score(self.model.run(covered))
        return upcast(score).unflatten(0, (-1, len(x)))


def spans(n: int, side: int, window: int, device: torch.device) -> Bool[Tensor, "n side"]:
    """Tell which pixels of a side lie in each of `n` windows; window i is centered on (i + ½) · side / n."""
    starts = ((2 * torch.arange(n, device=device) + 1) * side - window * n) // (2 * n)
    pixels = torch.arange(side, device=device)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + window)
