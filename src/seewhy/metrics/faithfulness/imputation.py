"""Noisy linear imputation: a removed pixel becomes the mean of its neighbours. No metric of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.methods.perturbation.masks import at_least_float

SIDE, CORNER = 1 / 6, 1 / 12
TOLERANCE = 1e-5  # of the residual, relative; the noise that is added is far larger
CHECK_EVERY = 20  # iterations between two looks at the residual, each a synchronisation


def impute(image: Float[Tensor, "channels height width"], removed: Bool[Tensor, "variants height width"],
           tolerance: float = TOLERANCE) -> Float[Tensor, "variants channels height width"]:
    """Every removed pixel the weighted mean of its 8 neighbours (sides 1/6, corners 1/12), removed ones included.

    Neighbours outside of the image do not count. All variants and channels are solved at once by conjugate gradients
    on the image's grid (the system is symmetric and positive), from a start that fills from coarse to fine. Where all
    pixels are removed nothing is known, and the mean colour of the image is taken.

    Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods (ICML 2022), section 4.
    """
    image = at_least_float(image)
    unknown = removed[:, None].to(image)
    all_gone = removed.flatten(1).all(1)[:, None, None, None]
    kernel = image.new_tensor([[CORNER, SIDE, CORNER], [SIDE, 0, SIDE], [CORNER, SIDE, CORNER]])[None, None]
    weight = F.conv2d(torch.ones_like(unknown[:1]), kernel, padding=1)

    def apply(v: Tensor) -> Tensor:
        """The system on the removed pixels: what a pixel has, minus what its neighbours give."""
        near = F.conv2d(v.flatten(0, 1)[:, None], kernel, padding=1).view(v.shape)
        return (weight * v - near) * unknown

    known = image * (1 - unknown)
    start = _filled(known, 1 - unknown)
    found = start + _solve(apply, -apply(start), start * unknown, tolerance)
    return torch.where(all_gone, image.mean((1, 2))[:, None, None], found)


def _solve(apply, residual: Tensor, scale: Tensor, tolerance: float) -> Tensor:
    """What to add; plain conjugate gradients, each variant and channel with its own steps."""
    limit = (tolerance * scale.square().mean((2, 3), keepdim=True).sqrt()).square() * scale.shape[-1] * scale.shape[-2]
    tiny = torch.finfo(residual.dtype).tiny
    found, direction = torch.zeros_like(residual), residual.clone()
    power = residual.square().sum((2, 3), keepdim=True)
    for iteration in range(20 * max(residual.shape[-2:])):
        if iteration % CHECK_EVERY == 0 and bool((power <= limit).all()):
            break
        image = apply(direction)
        step = power / (direction * image).sum((2, 3), keepdim=True).clamp(min=tiny)
        found += step * direction
        residual -= step * image
        power, old = residual.square().sum((2, 3), keepdim=True), power
        direction = residual + power / old.clamp(min=tiny) * direction
    return found


def _filled(known: Tensor, weight: Tensor) -> Tensor:
    """A first guess: holes get the value of the next coarser picture that knows one."""
    rows, cols = known.shape[-2:]
    if max(rows, cols) <= 1:
        return known / weight.clamp(min=torch.finfo(known.dtype).tiny)
    pooled = [F.avg_pool2d(t, 2, ceil_mode=True, count_include_pad=False) for t in (known, weight)]
    coarse = F.interpolate(_filled(*pooled), (2 * -(-rows // 2), 2 * -(-cols // 2)), mode="bilinear",
                           align_corners=False)[..., :rows, :cols]
    return torch.where(weight > 0, known / weight.clamp(min=1e-30), coarse)
