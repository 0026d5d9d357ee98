"""A plane between two sets of activations, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from seewhy.errors import TargetError


def split_rows(rows: Tensor, held_out: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split rows at random into those to fit and those to test.

    Args:
        rows: At least two.
        held_out: Share of the rows to test; at least one is fitted and one tested.
        generator: Draws the order.
    """
    order = torch.randperm(len(rows), generator=generator)
    cut = min(len(rows) - 1, max(1, round(held_out * len(rows))))
    return rows[order[cut:]], rows[order[:cut]]


def separate(positives: Tensor, negatives: Tensor, ridge: float) -> tuple[Tensor, float]:
    """Return unit normal and offset of the plane between two sets of activations.

    Ridge regression on +1 and −1, both sets weighted alike, in its dual form: n × n, whatever the dimension.

    Args:
        positives: Rows on the normal's side.
        negatives: Rows on the other side.
        ridge: Penalty, relative to the mean squared length of a row.

    Raises:
        TargetError: When all rows are the same, or the two sets have the same mean.
    """
    weights = torch.cat([torch.full((len(kind),), 0.5 / len(kind)).double() for kind in (positives, negatives)])
    x = torch.cat([positives, negatives])
    y = torch.cat([torch.ones(len(positives)), -torch.ones(len(negatives))]).double()
    x = x - weights @ x  # the middle between the two means: y is then centered as well
    rows = weights.sqrt()[:, None] * x
    gram = rows @ rows.mT
    if not gram.trace() > 1e-20:
        raise TargetError("the layer's activations are the same for all these images; use other images or layers")
    penalty = max(ridge, 1e-9) * gram.trace() * torch.eye(len(x), dtype=x.dtype)
    w = rows.mT @ torch.linalg.solve(gram + penalty, weights.sqrt() * y)
    if not (x @ w).abs().max() > 1e-9:  # of targets ±1; less is rounding
        raise TargetError("this layer does not separate the concept's images from the random ones; use others")
    v = w / w.norm()
    return v, -float(weights @ torch.cat([positives, negatives]) @ v)
