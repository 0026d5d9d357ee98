"""Random boxes: what the score loses when they are perturbed, and what a map holds in them. No metric of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seewhy.core.maps import CONSTANT_SPREAD
from seewhy.methods.base import make_generator
from seewhy.metrics.base import MetricInputs, option
from seewhy.metrics.faithfulness.perturbation import (
    BASELINE_HELP,
    GOALS,
    ModelMetric,
    baseline_images,
    choose,
    image_scores,
    increasing,
    scores,
)

GRID = 28
"""Patches along the shorter side of the image that sizes are counted in: the CDAM paper's 224 px in patches of 8."""
STRIDE = 7919  # a prime, so that the draws of different sizes and of neighboring seeds do not meet


@dataclass(kw_only=True, eq=False)
class BoxMetric(ModelMetric):
    """Options and boxes of the metrics that perturb random squares.

    The boxes depend on the seed, the size and the image's shape only: not on the map, the image or its neighbors, so
    that the model is asked once for all maps of an image, of any method and by any of these metrics.
    """

    sizes: Sequence[float] = option(
        (1, 3, 6, 9, 12, 15, 18, 21, 24, 27), f"sides of the boxes, in {GRID}ths of the image's shorter side"
    )
    draws: int = option(100, "random boxes of each size", at_least=2, repeats=True)
    baseline: str = option("blur", BASELINE_HELP)
    seed: int = option(0, "seed of the boxes")

    least = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sizes = increasing(self.sizes, "sizes", 1e-3, GRID, self.least)

    @property
    def axis(self) -> list[float]:
        return [float(size) for size in self.sizes]

    @property
    def axis_title(self) -> str:
        return f"side of the box (1/{GRID} of the image's shorter side)"

    def boxes(self, shape: tuple[int, int], size: float) -> tuple[int, Int[Tensor, "draws 2"]]:
        """The side in pixels, and each box's first row and column, uniform over all that lie in the image."""
        side = max(1, round(size * min(shape) / GRID))
        generator = make_generator(self.seed * STRIDE + round(1000 * size), torch.device("cpu"))
        free = torch.tensor([shape[0] - side + 1, shape[1] - side + 1])
        corners = (torch.rand(self.draws, 2, generator=generator, dtype=torch.float64) * free).long()
        return side, torch.minimum(corners, free - 1)

    def losses(self, given: MetricInputs) -> list[Float[Tensor, "batch draws"]]:
        """For each size, f(x) − f(x with the box perturbed); asked once for each image, size and baseline."""
        whole = image_scores(given, "logit", self.batch_size)
        keys = {size: ("box", size, self.draws, self.baseline, self.seed) for size in self.sizes}
        missing = [size for size, key in keys.items() if key not in given.cache]
        if missing:
            found = whole[:, None] - self._perturbed(given, missing)
            for size, part in zip(missing, found.split(self.draws, 1), strict=True):
                given.cached(keys[size], lambda part=part: part)
        return [given.cache[key] for key in keys.values()]

    def _perturbed(self, given: MetricInputs, sizes: list[float]) -> Float[Tensor, "batch boxes"]:
        rows, cols = given.x.shape[-2:]
        placed = [self.boxes((rows, cols), size) for size in sizes]
        corners = torch.cat([corner for _, corner in placed]).to(given.x.device)
        sides = torch.tensor([side for side, _ in placed]).repeat_interleave(self.draws).to(given.x.device)
        down = _spans(corners[:, 0], sides, rows)
        across = _spans(corners[:, 1], sides, cols)
        base = baseline_images(given, self.baseline)

        def fill(i: int, start: int, stop: int, out: Tensor) -> None:
            inside = (down[start:stop, :, None] & across[start:stop, None, :])[:, None]
            choose(inside, base[i], given.x[i], out)

        return scores(given, GOALS["logit"](given), len(corners), fill, self.batch_size)

    def sums(self, maps: Float[Tensor, "batch rows cols"]) -> list[Float[Tensor, "batch draws"]]:
        """For each size, the sum of the map in each box; float64, from the integral image."""
        whole = torch.nn.functional.pad(maps.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
        found = []
        for size in self.sizes:
            side, corners = self.boxes(maps.shape[1:], size)
            top, left = corners.to(maps.device).unbind(1)
            low, right = top + side, left + side
            found.append(whole[:, low, right] - whole[:, top, right] - whole[:, low, left] + whole[:, top, left])
        return found

    def correlations(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Float[Tensor, "batch sizes"]:
        """Pearson between the map's sum in a box and what the score loses without it, over the boxes of a size.

        0 where one of the two does not vary: such a map (a constant one, or one that no box touches) says nothing of
        where the score falls, and a model that does not care cannot be followed.
        """
        losses = torch.stack(self.losses(given), 1)
        # a map's mean adds the same to every box of a size; without it a large offset takes no digits away, and squares
        # of a map of spread 1 neither overflow nor vanish
        flat = maps.double().flatten(1)
        spread = flat.amax(1) - flat.amin(1)
        constant = spread <= CONSTANT_SPREAD * flat.abs().amax(1)
        centered = (flat - flat.mean(1, keepdim=True)) / spread.where(~constant, 1)[:, None]
        sums = torch.stack(self.sums(centered.view(maps.shape)), 1)
        area = torch.tensor([self.boxes(maps.shape[1:], size)[0] ** 2 for size in self.sizes]).to(maps.device)
        whole = image_scores(given, "logit", self.batch_size).abs()
        noise = 4 * torch.finfo(given.x.dtype).eps * torch.maximum(whole[:, None], losses.abs().amax(2))
        a, b = (v - v.mean(2, keepdim=True) for v in (sums, losses))
        still = (a.square().mean(2).sqrt() <= 1e-9 * area) | constant[:, None]
        still |= b.square().mean(2).sqrt() <= noise
        found = (a * b).sum(2) / (a.square().sum(2) * b.square().sum(2)).sqrt()
        # a NaN of the model stays one, also where the map says nothing
        return torch.where(still & torch.isfinite(losses).all(2), 0.0, found)


def _spans(starts: Int[Tensor, "boxes"], sides: Int[Tensor, "boxes"], length: int) -> Tensor:
    """Which pixels of a side of the image lie in each box."""
    pixels = torch.arange(length, device=starts.device)
    return (pixels >= starts[:, None]) & (pixels < (starts + sides)[:, None])
