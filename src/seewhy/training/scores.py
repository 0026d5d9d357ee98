"""Figures of predictions: accuracy, area under the ROC curve, mean squared error; overall and for each output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


def roc_auc(scores: Float[ndarray, " n"], positive: Bool[ndarray, " n"]) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative, ties counting one half.

    NaN where there are only positives or only negatives.

    Args:
        scores: Of each sample.
        positive: Which samples are positives.
    """
    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # from 1, the mean rank of ties
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def class_scores(
    probabilities: Float[ndarray, "n classes"], labels: Int[ndarray, " n"], names: Sequence[str]
) -> dict[str, float]:
    """Return accuracy and AUC; of more than two classes the mean of each against the rest, and each by name.

    Args:
        probabilities: Of each class.
        labels: The right classes.
        names: Of the classes.
    """
    figures = {"accuracy": float((probabilities.argmax(1) == labels).mean())}
    if len(names) == 2:
        return {**figures, "auc": roc_auc(probabilities[:, 1], labels == 1)}
    each = {name: roc_auc(probabilities[:, c], labels == c) for c, name in enumerate(names)}
    known = [value for value in each.values() if not np.isnan(value)]
    figures["auc"] = float(np.mean(known)) if known else float("nan")
    return figures | {f"auc {name}": value for name, value in each.items()}


def regression_scores(
    predicted: Float[ndarray, "n outputs"],
    targets: Float[ndarray, "n outputs"],
    scale: Float[ndarray, " outputs"],
    names: Sequence[str],
) -> dict[str, float]:
    """Return the mean squared error over all outputs in units of their spread, and of each output in its own units.

    `r2 …` is 1 − MSE / variance of the targets: the share of the variance that is explained.

    Args:
        predicted: In the units of the data.
        targets: Likewise.
        scale: The standard deviation of each output in the training data.
        names: Of the outputs.
    """
    errors = ((predicted - targets) ** 2).mean(0)
    variance = targets.var(0)
    explained = 1 - errors / np.where(variance > 0, variance, np.nan)
    figures = {"mse": float((errors / scale**2).mean())}
    figures |= {f"mse {name}": float(value) for name, value in zip(names, errors, strict=True)}
    return figures | {f"r2 {name}": float(value) for name, value in zip(names, explained, strict=True)}
