"""Ranks of numbers, ties included: what correlations and areas by rank are made of."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


def mean_ranks(values: Float[Tensor, "batch n"]) -> Float64[Tensor, "batch n"]:
    """Each row's ranks, 1 for the least and n for the greatest; equal values share the mean of theirs."""
    values = values.detach().double()
    if values.device.type == "cpu":  # NumPy sorts with vector instructions: a tenth of torch's time
        order = torch.from_numpy(np.argsort(values.numpy(), axis=1))
    else:
        order = values.argsort(1)
    ordered, n = values.gather(1, order), values.shape[1]
    place = torch.arange(n, device=values.device).expand_as(order)
    new = torch.ones_like(order, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = place.where(new, 0).cummax(1).values
    ends = new.roll(-1, 1)  # a run ends where the next begins; the last one by the first's mark
    last = place.where(ends, n).flip(1).cummin(1).values.flip(1)
    return torch.empty_like(values).scatter_(1, order, (first + last).double() / 2 + 1)


__all__ = ["mean_ranks"]
