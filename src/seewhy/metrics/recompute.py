"""Maps that a metric has made itself, of other images or another model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.maps import resize_maps
from seewhy.errors import NonFiniteError
from seewhy.methods.base import Method
from seewhy.targets import Target


def maps_again(
    method: Method,
    x: Float[Tensor, "batch channels height width"],
    target: Target | None,
    size: tuple[int, int],
    mode: str,
) -> Float[Tensor, "batch rows cols"]:
    """The method's maps at a size; NaN for an image of which the model says NaN, whatever it says of the others."""
    try:
        return resize_maps(method(x, target), size, mode)
    except NonFiniteError:
        if len(x) == 1:
            return torch.full((1, *size), torch.nan, device=x.device)
    return torch.cat([maps_again(method, x[i : i + 1], target and target.at([i]), size, mode) for i in range(len(x))])
