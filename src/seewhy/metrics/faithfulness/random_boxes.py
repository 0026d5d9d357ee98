"""Base of the metrics that perturb random boxes: what the score loses without a box, and what a map holds in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from seewhy.core.maps import flat_rows
from seewhy.methods.base import make_generator
from seewhy.metrics.base import MetricInputs, option
from seewhy.metrics.faithfulness.perturbation import (
    BASELINE_HELP,
    READOUTS,
    ModelMetric,
    baseline_images,
    check_increasing,
    image_scores,
    score_variants,
    select_pixels,
)

GRID = 28
"""Patches along the shorter side of the image that sizes are counted in: the CDAM paper's 224 px in patches of 8."""

STRIDE = 7919
"""A prime, so that the boxes of different sizes and of neighboring seeds do not meet."""


@dataclass(kw_only=True, eq=False)
class RandomBoxes(ModelMetric):
    """Options and boxes of the metrics that perturb random squares.

    The boxes depend on the seed, the size and the image's shape only: not on the map, the image or its neighbors, so
    that the model is run once for all maps of an image, of any method and by any of these metrics.

    Attributes:
        least_sizes: How many sizes the metric needs at least.
    """

    sizes: Sequence[float] = option(
        default=(1, 3, 6, 9, 12, 15, 18, 21, 24, 27),
        help=f"sides of the boxes, in {GRID}ths of the image's shorter side",
    )
    n_samples: int = option(default=100, help="random boxes of each size", at_least=2, repeats=True)
    baseline: str = option(default="blur", help=BASELINE_HELP)
    seed: int = option(default=0, help="seed of the boxes")

    least_sizes = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sizes = check_increasing(self.sizes, "sizes", 1e-3, GRID, self.least_sizes)

    @property
    def axis(self) -> list[float] | None:
        """The sizes."""
        return [float(size) for size in self.sizes]

    @property
    def axis_title(self) -> str:
        """The label of the abscissa."""
        return f"side of the box (1/{GRID} of the image's shorter side)"

    def boxes(self, rows: int, cols: int, size: float) -> tuple[int, Int[Tensor, "n_samples 2"]]:
        """Return the side in pixels, and each box's first row and column, uniform over all that lie in the image."""
        side = max(1, round(size * min(rows, cols) / GRID))
        generator = make_generator(self.seed * STRIDE + round(1000 * size), torch.device("cpu"))
        free = torch.tensor([rows - side + 1, cols - side + 1])
        corners = (torch.rand(self.n_samples, 2, generator=generator, dtype=torch.float64) * free).long()
        return side, torch.minimum(corners, free - 1)

    def score_losses(self, inputs: MetricInputs) -> list[Float64[Tensor, "batch n_samples"]]:
        """Return for each size f(x) − f(x with the box perturbed); computed once for each size and baseline."""
        whole = image_scores(inputs, "logit", self.batch_size)
        keys = {size: ("box", size, self.n_samples, self.baseline, self.seed) for size in self.sizes}
        missing = [size for size, key in keys.items() if key not in inputs.cache]
        if missing:
            losses = whole[:, None] - self._perturbed_scores(inputs, missing)
            for size, part in zip(missing, losses.split(self.n_samples, 1), strict=True):
                inputs.cache[keys[size]] = part
        return [inputs.cache[key] for key in keys.values()]

    def _perturbed_scores(self, inputs: MetricInputs, sizes: list[float]) -> Float64[Tensor, "batch boxes"]:
        x = inputs.model_inputs.x
        rows, cols = x.shape[-2:]
        placed = [self.boxes(rows, cols, size) for size in sizes]
        corners = torch.cat([corners for _, corners in placed]).to(x.device)
        sides = torch.tensor([side for side, _ in placed]).repeat_interleave(self.n_samples).to(x.device)
        in_rows = _spans(corners[:, 0], sides, rows)
        in_cols = _spans(corners[:, 1], sides, cols)
        baseline = baseline_images(inputs, self.baseline)

        def write_variants(image: int, start: int, stop: int, out: Tensor) -> None:
            inside = (in_rows[start:stop, :, None] & in_cols[start:stop, None, :])[:, None]
            select_pixels(inside, baseline[image], x[image], out)

        target = READOUTS["logit"](inputs.model_inputs)
        return score_variants(inputs, target, len(corners), write_variants, self.batch_size)

    def map_sums(self, maps: Float[Tensor, "batch rows cols"]) -> list[Float64[Tensor, "batch n_samples"]]:
        """Return for each size the sum of the map in each box; float64, from the integral image."""
        _, rows, cols = maps.shape
        integral = torch.nn.functional.pad(maps.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
        sums = []
        for size in self.sizes:
            side, corners = self.boxes(rows, cols, size)
            top, left = corners.to(maps.device).unbind(1)
            bottom, right = top + side, left + side
            lower = integral[:, bottom, right] - integral[:, top, right]
            sums.append(lower - integral[:, bottom, left] + integral[:, top, left])
        return sums

    def correlations(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> Float64[Tensor, "batch sizes"]:
        """Return Pearson's r between the map's sum in a box and what the score loses without it, for each size.

        0 where one of the two does not vary: such a map (a constant one, or one that no box touches) says nothing of
        where the score falls, and a model that does not react cannot be followed.
        """
        losses = torch.stack(self.score_losses(inputs), 1)
        # a map's mean adds the same to every box of a size; without it a large offset takes no digits away, and squares
        # of a map of spread 1 neither overflow nor vanish
        flat = maps.double().flatten(1)
        constant = flat_rows(flat)
        spread = (flat.amax(1) - flat.amin(1)).where(~constant, 1)
        centered = (flat - flat.mean(1, keepdim=True)) / spread[:, None]
        sums = torch.stack(self.map_sums(centered.view(maps.shape)), 1)
        a, b = (values - values.mean(2, keepdim=True) for values in (sums, losses))
        still = self._sums_do_not_vary(a, maps) | constant[:, None] | self._losses_do_not_vary(b, losses, inputs)
        r = (a * b).sum(2) / (a.square().sum(2) * b.square().sum(2)).sqrt()
        # a NaN of the model stays one, also where the map says nothing
        return torch.where(still & torch.isfinite(losses).all(2), 0.0, r)

    def _sums_do_not_vary(self, deviations: Tensor, maps: Tensor) -> Bool[Tensor, "batch sizes"]:
        """Tell where the map's sums differ by rounding only."""
        _, rows, cols = maps.shape
        box_areas = torch.tensor([self.boxes(rows, cols, size)[0] ** 2 for size in self.sizes]).to(maps.device)
        return deviations.square().mean(2).sqrt() <= 1e-9 * box_areas

    def _losses_do_not_vary(
        self, deviations: Tensor, losses: Tensor, inputs: MetricInputs
    ) -> Bool[Tensor, "batch sizes"]:
        """Tell where the model's scores differ by the rounding of its data type only."""
        whole = image_scores(inputs, "logit", self.batch_size).abs()
        epsilon = torch.finfo(inputs.model_inputs.x.dtype).eps
        noise = 4 * epsilon * torch.maximum(whole[:, None], losses.abs().amax(2))
        return deviations.square().mean(2).sqrt() <= noise


def _spans(starts: Int[Tensor, "boxes"], sides: Int[Tensor, "boxes"], length: int) -> Bool[Tensor, "boxes length"]:
    """Return which pixels of a side of the image lie in each box."""
    pixels = torch.arange(length, device=starts.device)
    return (pixels >= starts[:, None]) & (pixels < (starts + sides)[:, None])
