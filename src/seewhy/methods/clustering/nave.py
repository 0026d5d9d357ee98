"""NAVE: segments of an image, by clustering the model's activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.core.segmentation import foreground_cluster
from seewhy.errors import OptionError, require
from seewhy.methods.base import Method, method, option
from seewhy.methods.clustering.clusters import ALGORITHMS, Clusters, Components, Settings, check_count, cluster
from seewhy.methods.clustering.features import kept_layers, layer_weights, positions
from seewhy.methods.guards import check_batch
from seewhy.models.adapter import VisionModel
from seewhy.targets import Target

ImageClusters = tuple[Int64[Tensor, "rows cols"], Float[Tensor, "rows cols k"]]


@method(
    name="nave",
    title="NAVE",
    summary="Segments by clustering several layers: similarity of every position to the cluster in front.",
    needs={Capability.FEATURES},
    signed=False,
    class_specific=False,
    stochastic=True,
    citation="Boubekki, Fadel & Mair, Activation Clustering (2024), arXiv:2411.19700",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(0)),
    autocast="a position is in one cluster or in another: the rounding of half precision moves some",
)
class NAVE(Method):
    """k-means over the positions of a grid, each described by several layers at once.

    For each kept layer l of C_l channels: features to unit L2 norm per position, times (1 + C_0)/(1 + C_l) with C_0
    the first kept layer's, bicubic to one grid; all layers concatenated; k-means++ with K = 3 … 10. Prefix tokens are
    dropped. One forward, truncated after the deepest kept layer, whatever the number of layers.

    The weights let shallow layers rule where the channels grow fast; in EfficientNet-Lite0 (40, 112, 1280) the last one
    has 3 %. `balance="equal"` gives all the same: on 30 cut-outs the chosen box then meets the object (IoU ≥ 0.5) in
    57 % instead of 33 % with K = 5, in 67 % instead of 57 % with K = 3; on 60 scenes of several objects `scenes_cnn`
    meets one of them in 77 % instead of 33 %. `seewhy segment` therefore takes equal weights.

    `segments` has the label map, `cluster_maps` the similarity of every position to each centroid. The map of the
    method (what `explain` draws) is the similarity to one cluster, chosen for each image without ground truth: the
    one with the largest compact part away from the image's edge (`seewhy.core.segmentation.choose_box`), or
    `cluster=i`. Clusters are numbered by size, 0 is the largest.

    By default each image is clustered alone. `joint=True` clusters all images of a batch together: the same number
    then means the same in each of them (and an image's map depends on its batch). `fit` and `assign` carry the
    clusters of some images over to others.

    Memory: positions × Σ C_l × 4 bytes beside the layers' own outputs, 11 MB for a ResNet-50 at 224 pixels
    (784 × 3584); once for one image at a time, and with `joint` or `fit` for all images of the batch together.
    K-means adds no copy of it on the CPU (on a GPU there is one on the CPU). Agglomerative clustering adds
    a number for each pair of positions.

    Seeded: the same `seed` gives the same clusters.
    """

    layers: Any = option(
        default=None,
        help="layers by dotted name, module or stage number; default: every block of a transformer, "
        "the last three stages of other models",
    )
    k: int | None = option(
        default=5, help="number of clusters; None: the one of 3 to 10 with the best silhouette", at_least=2
    )
    cluster: int | None = option(
        default=None, help="whose similarity is the map; default: the cluster in front", at_least=0
    )
    joint: bool = option(default=False, help="cluster all images of a batch together")
    algorithm: str = option(
        default="kmeans", help="what makes the clusters; pca: K principal components instead", choices=ALGORITHMS
    )
    size: Any = option(default=None, help="(rows, cols) of the grid; default: the first kept layer's")
    n_init: int = option(default=10, help="starts of k-means; the best is kept", at_least=1, repeats=True)
    balance: str = option(
        default="channels",
        help="weights of the layers: by their channels (the paper), or equal",
        choices=("channels", "equal"),
    )
    seed: int = option(default=0, help="seed of k-means", at_least=0)

    @classmethod
    def why_incompatible(cls, model: VisionModel) -> str:
        """Say why not; models with one layer on a grid have nothing to put together."""
        missing = super().why_incompatible(model)
        if missing or len(model.structure.stages) > 1:
            return missing
        return "it needs feature maps of several layers, and this model has one"

    def setup(self) -> None:
        """Settle the layers and check the options that depend on each other."""
        require("sklearn", "cluster")
        self._kept = kept_layers(self.model, self.layers)
        self._settings = Settings(self.k, self.algorithm, self.n_init, self.seed)
        if self.cluster is not None and self.cluster >= (self.k or 10):
            raise OptionError(
                f"cluster={self.cluster} is out of range; the {self.k or 10} clusters are numbered from 0 to "
                f"{(self.k or 10) - 1}"
            )
        if self.size is not None:
            rows, cols = _grid_size(self.size)
            check_count(self.k, rows * cols, f"size={self.size}")

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        maps = []
        for labels, similarity in self._clustered(x):
            chosen = foreground_cluster(labels) if self.cluster is None else self.cluster
            # a cluster that this image does not have is similar to nothing
            exists = chosen < similarity.shape[-1]
            maps.append(similarity[..., chosen] if exists else torch.zeros_like(similarity[..., 0]))
        return torch.stack(maps)

    def segments(self, x: Float[Tensor, "batch channels height width"]) -> Int64[Tensor, "batch rows cols"]:
        """Return the cluster of every position.

        An image may have fewer clusters than K (one, if all its features are equal).

        Args:
            x: The preprocessed batch.

        Raises:
            ModelError: When `x` is not a batch for this model.
            NonFiniteError: When the features hold NaN or infinity.
            OptionError: When there are more clusters than positions.
        """
        return self.explore(x)[0]

    def cluster_maps(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch k rows cols"]:
        """Return the similarity of every position to every centroid, in [0, 1]; errors as for `segments`.

        The largest is that of the position's own segment (but agglomerative clusters do not end half-way between
        centroids). Clusters that an image does not have get zeros.
        """
        return self.explore(x)[1]

    def explore(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> tuple[Int64[Tensor, "batch rows cols"], Float[Tensor, "batch k rows cols"]]:
        """Return `segments` and `cluster_maps` from one forward and one clustering."""
        with torch.inference_mode(False), torch.no_grad():
            return _padded(list(self._clustered(self._ready(x))))

    def fit(self, x: Float[Tensor, "batch channels height width"]) -> Clusters | Components:
        """Cluster all images of a batch together, for `assign`; the method itself stays as it is."""
        with torch.inference_mode(False), torch.no_grad():
            features, _ = self._all_features(self._ready(x))
            return self._cluster(features.flatten(0, 1))[1]

    def assign(
        self, x: Float[Tensor, "batch channels height width"], clusters: Clusters | Components
    ) -> tuple[Int64[Tensor, "batch rows cols"], Float[Tensor, "batch k rows cols"]]:
        """Return segments and similarities of other images, by the clusters of `fit`: the same number means the same.

        Args:
            x: The preprocessed batch.
            clusters: The result of `fit`.

        Raises:
            OptionError: When the clusters are of other layers.
        """
        if clusters.layers != tuple(layer.name for layer in self._kept):
            raise OptionError(
                f"the clusters are of the layers {', '.join(clusters.layers)}, this NAVE clusters "
                f"{', '.join(layer.name for layer in self._kept)}; fit and assign with the same layers"
            )
        with torch.inference_mode(False), torch.no_grad():
            results = []
            for features, grid in self._each_image(self._ready(x)):
                similarity = clusters.similarity(features)
                results.append((similarity.argmax(1).unflatten(0, grid), similarity.unflatten(0, grid)))
            return _padded(results)

    def _ready(self, x: Tensor) -> Tensor:
        """Check the batch and make it safe, as `__call__` does."""
        check_batch(x, self.model)
        return (x.clone() if x.is_inference() else x.detach()).to(self.model.dtype)

    def _each_image(self, x: Tensor) -> Iterator[tuple[Float[Tensor, "n channels"], tuple[int, int]]]:
        """Yield (features, grid) of one image after the other, so that one feature matrix exists at a time."""
        maps = list(self._activations(x).values())
        grid = self._grid(maps[0])
        for i in range(len(x)):
            yield positions([m[i : i + 1] for m in maps], grid, self._weights)[0], grid

    def _all_features(self, x: Tensor) -> tuple[Float[Tensor, "batch n channels"], tuple[int, int]]:
        maps = list(self._activations(x).values())
        grid = self._grid(maps[0])
        return positions(maps, grid, self._weights), grid

    def _activations(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.model.activations(x, self._kept)
        self._weights = layer_weights([m.shape[1] for m in maps.values()], self.balance)
        return maps

    def _grid(self, first: Float[Tensor, "batch channels rows cols"]) -> tuple[int, int]:
        if self.size is not None:
            return _grid_size(self.size)
        rows, cols = first.shape[-2:]
        check_count(self.k, rows * cols, f"the {rows}×{cols} grid of {self._kept[0].name}")
        return rows, cols

    def _cluster(self, features: Float[Tensor, "n channels"]) -> tuple[Int64[Tensor, " n"], Clusters | Components]:
        # Σ w²: the squared norm of a position's vector before interpolation (bicubic changes it a little)
        energy = sum(w**2 for w in self._weights)
        return cluster(features, self._settings, energy, tuple(layer.name for layer in self._kept))

    def _clustered(self, x: Tensor) -> Iterator[ImageClusters]:
        """Yield (labels, similarities) for each image."""
        if not self.joint:
            for features, grid in self._each_image(x):
                labels, clusters = self._cluster(features)
                yield labels.unflatten(0, grid), clusters.similarity(features).unflatten(0, grid)
            return
        features, grid = self._all_features(x)
        labels, clusters = self._cluster(features.flatten(0, 1))
        for features_of_one, labels_of_one in zip(features, labels.unflatten(0, features.shape[:2]), strict=True):
            yield labels_of_one.unflatten(0, grid), clusters.similarity(features_of_one).unflatten(0, grid)


def _grid_size(size: Any) -> tuple[int, int]:
    try:
        rows, cols = (int(n) for n in size)
    except (TypeError, ValueError):
        raise OptionError(f"size={size!r} is not (rows, cols); give two numbers") from None
    if min(rows, cols) < 1:
        raise OptionError(f"size={size!r} has no cells; give (rows, cols) of at least 1")
    return rows, cols


def _padded(
    images: list[ImageClusters],
) -> tuple[Int64[Tensor, "batch rows cols"], Float[Tensor, "batch k rows cols"]]:
    """Stack the results of all images; those with fewer clusters get maps of zeros for the rest."""
    most = max(similarity.shape[-1] for _, similarity in images)
    padded = [torch.nn.functional.pad(similarity, (0, most - similarity.shape[-1])) for _, similarity in images]
    return torch.stack([labels for labels, _ in images]), torch.stack(padded).permute(0, 3, 1, 2)
