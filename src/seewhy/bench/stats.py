"""Intervals, ranks and verdicts from the scores of single maps.

Maps of one image are not independent (two targets of one image share its difficulty), so images are resampled, each
with all its maps: the cluster bootstrap (Field and Welsh 2007, "Bootstrapping clustered data"). One set of resamples
serves all methods and metrics, so that differences between methods are paired. Everything is a ratio of sums over
images, Σ sums / Σ counts, which makes a resample one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

RESAMPLES = 2000
LEVEL = 0.95
ALPHA = 0.05
FEWEST_FOR_INTERVAL = 6
"""Below, not even the range of all values holds the median in 95 % of samples (1 − 2 · 0.5^n), so no resampling can."""

FEWEST_IMAGES = 10
"""Below, a resampled difference takes too few values for a verdict."""

MOST_RESAMPLES = 20_000
BLOCK = 4_000_000
"""Numbers drawn at a time."""


@dataclass(frozen=True)
class Intervals:
    """Means over all maps with intervals, for each column.

    NaN where a column has no value; the interval also where it has values in fewer than `FEWEST_FOR_INTERVAL` images,
    and p in fewer than `FEWEST_IMAGES`.

    Attributes:
        mean: Mean over all maps.
        low: Lower end of the 95 % percentile interval.
        high: Upper end of the interval.
        p: Two-sided p of "the mean is 0".
    """

    mean: Float[ndarray, "columns"]
    low: Float[ndarray, "columns"]
    high: Float[ndarray, "columns"]
    p: Float[ndarray, "columns"]


def resamples_for(tests: int, resamples: int = RESAMPLES) -> int:
    """Return enough resamples for the smallest possible p, 2 / (n + 1), to survive Holm's correction for the tests."""
    return min(max(resamples, 80 * tests), max(resamples, MOST_RESAMPLES))


def intervals(
    sums: Float[ndarray, "images columns"],
    counts: Int[ndarray, "images columns"],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """Compute the cluster bootstrap of Σ sums / Σ counts.

    Args:
        sums: Sum of the values of each image's maps; one column for each thing that is averaged.
        counts: How many maps these are; 0 where the image has no value.
        resamples: Resamples of as many images as there are, with replacement.
        seed: Seed of the resampling; the same images are drawn for every column.
    """
    total = counts.sum(0)
    with np.errstate(invalid="ignore"):
        mean = np.where(total > 0, sums.sum(0) / total, np.nan)
    centered = sums - counts * np.nan_to_num(mean)  # resampled deviations: nothing is lost to large means
    deviations = _resampled(centered, counts.astype(np.float64), resamples, seed)
    images = (counts > 0).sum(0)
    tail = (1 - LEVEL) / 2
    low, high = (
        np.where(images >= FEWEST_FOR_INTERVAL, _add(mean, _quantile(deviations, q)), np.nan) for q in (tail, 1 - tail)
    )
    return Intervals(mean, low, high, np.where(images >= FEWEST_IMAGES, _p(deviations, mean), np.nan))


def _add(a: Float[ndarray, "columns"], b: Float[ndarray, "columns"]) -> Float[ndarray, "columns"]:
    """Return a + b, and 0 where they cancel but for rounding."""
    return np.where(np.isclose(a, -b, rtol=1e-12, atol=0), 0.0, a + b)


def _resampled(sums: ndarray, counts: ndarray, resamples: int, seed: int) -> Float[ndarray, "draws columns"]:
    """Return the means of resampled images; NaN where a resample holds no value."""
    means = []
    for weights in _weights(len(sums), resamples, seed):
        n = weights @ counts
        with np.errstate(invalid="ignore"):
            means.append(np.where(n > 0, weights @ sums / n, np.nan))
    return np.concatenate(means) if means else np.full((resamples, sums.shape[1]), np.nan)


def _weights(images: int, resamples: int, seed: int) -> Iterator[Float[ndarray, "some images"]]:
    """Yield how often each image is drawn, some resamples at a time."""
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK // max(images, 1))
    for start in range(0, resamples if images else 0, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def _quantile(values: Float[ndarray, "draws columns"], q: float) -> Float[ndarray, "columns"]:
    if not np.isnan(values).any():
        return np.quantile(values, q, axis=0)
    some = ~np.isnan(values).all(0)
    quantiles = np.full(values.shape[1], np.nan)
    quantiles[some] = np.nanquantile(values[:, some], q, axis=0)
    return quantiles


def _p(deviations: Float[ndarray, "draws columns"], mean: Float[ndarray, "columns"]) -> Float[ndarray, "columns"]:
    """Return twice the share of resampled means on the far side of 0: below 0.05 where the interval leaves 0 out."""
    below = (deviations + mean <= 0).sum(0)
    above = (deviations + mean >= 0).sum(0)
    return np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (1 + len(deviations)))


def holm(p: Float[ndarray, "tests"]) -> Float[ndarray, "tests"]:
    """Adjust p-values step-down (Holm 1979): all tests together err with probability ALPHA at most. NaN stays NaN.

    SciPy has no such function, and statsmodels, which has one, is a large dependency for six lines.
    """
    adjusted = np.full(len(p), np.nan)
    valid = np.flatnonzero(~np.isnan(p))
    order = valid[np.argsort(p[valid], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted


def ranks(means: Float[ndarray, "methods"], higher_is_better: bool | None) -> list[int | None]:
    """Return 1 for the best; equal means share a rank; None without a mean or without a better direction."""
    if higher_is_better is None:
        return [None] * len(means)
    signed = means if higher_is_better else -means
    return [None if np.isnan(own) else 1 + int((signed > own).sum()) for own in signed]


def band(
    sums: Float[ndarray, "images points"], counts: Int[ndarray, "images points"]
) -> tuple[Float[ndarray, "points"], Float[ndarray, "points"]]:
    """Return means and half-widths of pointwise 95 % bands, 1.96 standard errors of a ratio of sums over images.

    For curves, where thousands of points would make the bootstrap dear: the closed form that the bootstrap tends to,
    SE² = C/(C − 1) · Σ (sum − mean · count)² / (Σ counts)². NaN half-widths below `FEWEST_FOR_INTERVAL` images.
    """
    total, images = counts.sum(0), len(sums)
    if images < FEWEST_FOR_INTERVAL:
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums.sum(0) / total, np.full(sums.shape[1:], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(0) / total
        error = np.sqrt(images / (images - 1) * ((sums - mean * counts) ** 2).sum(0)) / total
    return mean, 1.96 * error
