"""Maps that a metric asks the method for again, of other images or another model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.maps import resize_maps
from seewhy.errors import NonFiniteError
from seewhy.methods.base import Method
from seewhy.targets import Target


def recompute_maps(
    method: Method,
    x: Float[Tensor, "batch channels height width"],
    target: Target | None,
    like: Float[Tensor, "maps rows cols"],
    mode: str,
) -> Float[Tensor, "batch rows cols"]:
    """Return the method's maps of some images at the size of other maps.

    Args:
        method: The method as it is configured.
        x: The images, preprocessed.
        target: What is explained; None for label-free methods.
        like: The maps that they will be compared with.
        mode: How they are resized.

    Returns:
        The maps; NaN for an image of which the model says NaN, whatever it says of the others.
    """
    rows, cols = like.shape[1:]
    try:
        return resize_maps(method(x, target), (rows, cols), mode)
    except NonFiniteError:
        if len(x) == 1:
            return torch.full((1, rows, cols), torch.nan, device=x.device)
    one_by_one = [recompute_maps(method, x[i : i + 1], target and target.at([i]), like, mode) for i in range(len(x))]
    return torch.cat(one_by_one)
