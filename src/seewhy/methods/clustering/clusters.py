"""k-means, agglomerative clustering and PCA of scikit-learn, with one kind of result: what NAVE runs on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from seewhy.core.maps import CONSTANT_SPREAD
from seewhy.errors import NonFiniteError, OptionError, require

ALGORITHMS = ("kmeans", "agglomerative", "pca")
CHOICES = range(3, 11)  # the K of the paper's experiments
SILHOUETTE_SAMPLE = 1000
MOST_PAIRWISE = 10_000  # positions; agglomerative clustering holds a distance for each pair: 400 MB at this number


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centroids in feature space: give labels and similarities for any image of the same model and layers.

    Attributes:
        centers: One row per cluster, the largest cluster first.
        energy: Squared norm of the features (Σ_l w_l²), the scale of the similarity.
        layers: Names of the layers whose features they are.
    """

    centers: Float[Tensor, "k channels"]
    energy: float
    layers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.centers)

    def similarity(self, features: Float[Tensor, "n channels"]) -> Float[Tensor, "n k"]:
        """Compute 1 − ‖f − c‖² / 4E in [0, 1]: 1 at the centroid, 0 opposite to it; the nearest has the largest.

        For f and c of the squared norm E it is (1 + cos(f, c)) / 2. (Bicubic overshoot is clamped.)
        """
        with torch.autocast(features.device.type, enabled=False):
            squared = (features**2).sum(1, keepdim=True) + (self.centers**2).sum(1) - 2 * features @ self.centers.T
        return (1 - squared / (4 * self.energy)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components in the place of centroids.

    Attributes:
        axes: Unit vectors, the one with most variance first; each points to where its largest score is.
        mean: Mean of the features that they were computed from.
        reach: The largest score on each axis there.
        layers: Names of the layers whose features they are.
    """

    axes: Float[Tensor, "k channels"]
    mean: Float[Tensor, " channels"]
    reach: Float[Tensor, " k"]
    layers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.axes)

    def similarity(self, features: Float[Tensor, "n channels"]) -> Float[Tensor, "n k"]:
        """Compute (1 + score / largest score) / 2 in [0, 1]: 1/2 is the mean of all positions."""
        with torch.autocast(features.device.type, enabled=False):
            scores = (features - self.mean) @ self.axes.T
        return (0.5 + scores / (2 * self.reach.clamp(min=1e-12))).clamp(0, 1)


@dataclass(frozen=True)
class Settings:
    """The options of `NAVE` that say how to cluster; see there."""

    k: int | None
    algorithm: str
    n_init: int
    seed: int


def check_count(k: int | None, positions: int, grid: str) -> None:
    """Raise `OptionError` if there are fewer positions than clusters."""
    least = CHOICES[0] if k is None else k
    if least > positions:
        raise OptionError(
            f"k={k or least} clusters of only {positions} positions ({grid}); use a smaller k, "
            "an earlier layer first in layers=, or a finer grid with size=(rows, cols)"
        )


def cluster(
    features: Float[Tensor, "n channels"], settings: Settings, energy: float, layers: tuple[str, ...]
) -> tuple[Int64[Tensor, " n"], Clusters | Components]:
    """Cluster the rows; clusters are numbered by size, the largest is 0.

    Features that have fewer distinct rows than clusters were asked for give fewer clusters; features that are
    the same everywhere (up to rounding) one, whatever the algorithm.

    Args:
        features: One row per position.
        settings: How to cluster.
        energy: Squared norm of a row.
        layers: Names of the layers whose features they are.

    Returns:
        The cluster of each row, and the clusters.

    Raises:
        NonFiniteError: When the features hold NaN or infinity.
        OptionError: When there are too many rows for this algorithm.
        MissingExtraError: When scikit-learn is not installed.
    """
    if not torch.isfinite(features).all():
        raise NonFiniteError(
            "the features hold NaN or infinity; check the weights, the preprocessing, "
            "and whether half precision overflows"
        )
    if _is_flat(features):
        return torch.zeros_like(features[:, 0], dtype=torch.int64), Clusters(features.mean(0)[None], energy, layers)
    rows = features.cpu().numpy()
    if settings.algorithm == "pca":
        components = _components(rows, settings, features.device, layers)
        return components.similarity(features).argmax(1), components
    labels = torch.from_numpy(by_size(_labels(rows, settings))).to(features.device)
    return labels, Clusters(_means(features, labels), energy, layers)


def _is_flat(features: Float[Tensor, "n channels"]) -> bool:
    spread = (features.amax(0) - features.amin(0)).max()
    return bool(spread <= 10 * CONSTANT_SPREAD * features.abs().max())  # 10: bicubic weights add up to 1 in float32


def _means(features: Float[Tensor, "n channels"], labels: Int64[Tensor, " n"]) -> Float[Tensor, "k channels"]:
    """Compute the centroids as a product with a one-hot matrix: sums in one order, also on a GPU."""
    member = torch.nn.functional.one_hot(labels).to(features.dtype)
    with torch.autocast(features.device.type, enabled=False):
        return (member.T @ features) / member.sum(0)[:, None]


def by_size(labels: ndarray) -> ndarray:
    """Renumber a partition by size: the largest cluster is 0; of equals the one that comes first."""
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    return rank[inverse.ravel()]


def _labels(rows: Float[ndarray, "n channels"], settings: Settings) -> ndarray:
    run = _agglomerative if settings.algorithm == "agglomerative" else _kmeans
    if 2 * len(rows) <= rows.shape[1]:
        rows = coordinates(rows)
    if settings.k is not None:
        return run(rows, settings.k, settings)
    return _by_silhouette(rows, run, settings)


def coordinates(rows: Float[ndarray, "n channels"]) -> Float[ndarray, "n dims"]:
    """Return points at the same distances from each other in at most n dimensions, where n is less than the channels.

    With the Gram matrix of the rows, X Xᵀ = U Λ Uᵀ, they are U √Λ: the rows turned, so that what only looks at
    distances (k-means, Ward's clustering, silhouettes) finds the same. float64, as the products need it.
    """
    rows = rows.astype(np.float64)
    rows -= rows.mean(0)
    values, vectors = np.linalg.eigh(rows @ rows.T)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def _kmeans(rows: Float[ndarray, "n channels"], k: int, settings: Settings) -> ndarray:
    engine = require("sklearn.cluster", "cluster")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", require("sklearn.exceptions", "cluster").ConvergenceWarning)
        # tol=0: until no label changes, so that the labels are those of the nearest centroid to the last bit
        return (
            engine.KMeans(k, init="k-means++", n_init=settings.n_init, random_state=settings.seed, tol=0, copy_x=False)
            .fit(rows)
            .labels_
        )


def _agglomerative(rows: Float[ndarray, "n channels"], k: int, settings: Settings) -> ndarray:
    if len(rows) > MOST_PAIRWISE:
        raise OptionError(
            f"agglomerative clustering of {len(rows)} positions needs a distance for each pair; "
            "use algorithm='kmeans', a coarser size=(rows, cols), or joint=False"
        )
    return require("sklearn.cluster", "cluster").AgglomerativeClustering(k).fit(rows).labels_


def _by_silhouette(rows: Float[ndarray, "n channels"], run: Callable[..., ndarray], settings: Settings) -> ndarray:
    """Cluster with the K of 3 … 10 of the best mean silhouette on a seeded sample; of equals the smallest."""
    sample = np.random.default_rng(settings.seed).permutation(len(rows))[:SILHOUETTE_SAMPLE]
    score = require("sklearn.metrics", "cluster").silhouette_score
    best: ndarray | None = None
    best_score = -np.inf
    for k in CHOICES:
        if k > len(rows):
            break
        labels = run(rows, k, settings)
        kinds = len(np.unique(labels[sample]))
        quality = score(rows[sample], labels[sample]) if 2 <= kinds < len(sample) else -1.0
        if quality > best_score:
            best, best_score = labels, quality
    if best is None:
        raise AssertionError("no K was tried")
    return best


def _components(
    rows: Float[ndarray, "n channels"], settings: Settings, device: torch.device, layers: tuple[str, ...]
) -> Components:
    k = CHOICES[0] if settings.k is None else settings.k
    if k > rows.shape[1]:
        raise OptionError(f"{k} components of only {rows.shape[1]} channels; use a smaller k, or more layers")
    centered = rows - rows.mean(0)
    engine = require("sklearn.decomposition", "cluster").PCA(k, random_state=settings.seed)
    scores = engine.fit_transform(centered)
    sign = np.sign(scores[np.abs(scores).argmax(0), np.arange(k)])
    sign[sign == 0] = 1
    axes = torch.from_numpy(engine.components_ * sign[:, None]).to(device)
    reach = torch.from_numpy(np.abs(scores).max(0)).to(device)
    return Components(axes.float(), torch.from_numpy(rows.mean(0)).to(device), reach.float(), layers)
