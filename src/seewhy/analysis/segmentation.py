"""From a label map to boxes, and from a saliency map to the outline of one object.

Boxes: the components of a label map, an inner box for each, and one box chosen without ground truth (NAVE,
arXiv:2411.19700). Outline: a graph cut between the colors under the strongest and under the weakest part of a map
(Simonyan et al., Deep Inside Convolutional Networks, section 3.2).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from numpy import ndarray
from torch import Tensor

from seewhy.core.images import ImageLike, load_image
from seewhy.core.maps import resize
from seewhy.errors import ConstantMapError, NonFiniteError, OptionError, SeewhyError, require
from seewhy.explanation import Explanation

MIN_AREA = 784  # pixels of the picture's own size: 28 × 28
BORDER = 14


@dataclass(frozen=True)
class Box:
    """Pixels `left` ≤ column < `right`, `top` ≤ row < `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """Pixels inside."""
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)

    def iou(self, other: Box) -> float:
        """Intersection over union; 0 where both are empty."""
        both = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area
        union = self.area + other.area - both
        return both / union if union else 0.0

    def cells(self) -> tuple[slice, slice]:
        """The index of the box's part of an array (rows, cols)."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Component:
    """One connected part of a cluster.

    Attributes:
        cluster: the label that it has.
        box: the tight box.
        inner: the box round its median pixel that reaches to the nearest of its extremes on each axis.
        area: its pixels.
        core: those of its pixels that lie in the inner box.
    """

    cluster: int
    box: Box
    inner: Box
    area: int
    core: int

    @property
    def presence(self) -> float:
        """core² / area of the inner box: pixels of the core, less where the inner box is not filled.

        Large for a large compact thing; small for a ring, a frame or scattered pieces, whatever their size.
        """
        return self.core**2 / self.inner.area


# ── boxes of a label map ──────────────────────────────────────────────────────────────────────────────────────────────


def component_boxes(
    labels: Integer[ndarray, "rows cols"] | Integer[Tensor, "rows cols"],
    size: tuple[int, int] | None = None,
    min_area: int | None = None,
    border: int | None = None,
) -> list[Component]:
    """The connected components (4 neighbors) of every cluster, the largest of each cluster first.

    Args:
        labels: cluster of each cell; negative: of none.
        size: (rows, cols) of the picture; the labels grow to it by nearest neighbor. Default: the labels' own.
        min_area: smaller components (in the picture's pixels) are dropped. Default: the paper's 784.
        border: that many pixels along the picture's edge belong to no component. Default: the paper's 14.
            A picture whose short side is below 224 pixels has both defaults in proportion.

    Raises:
        MissingExtraError: `pip install 'seewhy[cluster]'` has not been done.
        OptionError: a size, area or border that cannot be.
    """
    grown = _grown(_array(labels), size)
    scale = min(1.0, min(grown.shape) / 224)
    min_area = round(MIN_AREA * scale**2) if min_area is None else min_area
    border = round(BORDER * scale) if border is None else border
    if min_area < 0 or border < 0:
        raise OptionError(f"min_area={min_area}, border={border}: neither can be negative; use 0 to drop nothing")
    return list(_components(grown, max(1, min_area), border))


def _components(labels: ndarray, min_area: int, border: int) -> Iterator[Component]:
    label = require("scipy.ndimage", "cluster").label
    open_area = np.zeros(labels.shape, dtype=bool)
    open_area[border : labels.shape[0] - border, border : labels.shape[1] - border] = True
    for cluster in np.unique(labels[labels >= 0]):
        parts, _ = label((labels == cluster) & open_area)  # scipy's default structure: 4 neighbors
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        for part in np.argsort(-areas, kind="stable"):
            if areas[part] < min_area:
                break
            yield _component(int(cluster), parts == part)


def _component(cluster: int, mask: Bool[ndarray, "rows cols"]) -> Component:
    box, inner = tight_box(mask), inner_box(mask)
    return Component(cluster, box, inner, int(mask.sum()), int(mask[inner.cells()].sum()))


def tight_box(mask: Bool[ndarray, "rows cols"]) -> Box:
    """The smallest box round all pixels of a mask.

    Raises:
        OptionError: the mask is empty.
    """
    rows, cols = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        raise OptionError("an empty mask has no box; pass a mask with at least one pixel")
    return Box(int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)


def inner_box(mask: Bool[ndarray, "rows cols"]) -> Box:
    """The box centered on the mask's median pixel whose half-extents are the shortest distance to its extremes.

    The median is taken for rows and columns separately; of an even number of pixels it is the lower one.
    A thin arm of the object moves the tight box a lot and this box hardly.

    Raises:
        OptionError: the mask is empty.
    """
    box = tight_box(mask)
    top, bottom = _around_median(mask.sum(1), box.top, box.bottom)
    left, right = _around_median(mask.sum(0), box.left, box.right)
    return Box(left, top, right, bottom)


def _around_median(counts: Integer[ndarray, " n"], low: int, high: int) -> tuple[int, int]:
    """On one axis: from the pixel counts to the range round the median."""
    total = counts.sum()
    median = int(np.searchsorted(np.cumsum(counts), (total + 1) // 2))
    half = min(median - low, high - 1 - median)
    return median - half, median + half + 1


def background_clusters(labels: Integer[ndarray, "rows cols"] | Integer[Tensor, "rows cols"]) -> frozenset[int]:
    """The clusters with a larger share of the outermost ring of cells than of the whole map.

    What photographers put in the middle is the foreground; a cluster that lies evenly everywhere is not background.
    """
    cells = _array(labels)
    ring = np.ones(cells.shape, dtype=bool)
    ring[1:-1, 1:-1] = False
    return frozenset(int(c) for c in np.unique(cells[cells >= 0]) if (cells[ring] == c).mean() > (cells == c).mean())


def choose_box(components: Iterable[Component], background: Iterable[int] = ()) -> Component | None:
    """One component, picked without ground truth: of those that are not background the one with most presence.

    If everything is background the rule chooses among all. Our sources leave the exact rule open; this one is ours,
    so scores made with it are not the paper's.

    Returns:
        The component, or None if there are none.
    """
    components, background = list(components), frozenset(background)
    front = [c for c in components if c.cluster not in background] or components
    return max(front, key=lambda c: c.presence, default=None)  # of equals the first


def foreground_cluster(labels: Integer[ndarray, "rows cols"] | Integer[Tensor, "rows cols"]) -> int:
    """The cluster of the chosen component, on the label map's own grid with nothing dropped."""
    chosen = choose_box(component_boxes(labels, min_area=0, border=0), background_clusters(labels))
    if chosen is None:
        raise OptionError("no cell of the label map belongs to a cluster; pass labels of 0 or more")
    return chosen.cluster


def _array(labels: ndarray | Tensor) -> ndarray:
    return labels.cpu().numpy() if isinstance(labels, Tensor) else labels


def grown_labels(
    labels: Integer[ndarray, "r c"] | Integer[Tensor, "r c"], size: tuple[int, int]
) -> Integer[ndarray, "rows cols"]:
    """A label map at another size (rows, cols) by nearest neighbor, pixel centers on pixel centers."""
    return _grown(_array(labels), size)


def _grown(labels: ndarray, size: tuple[int, int] | None) -> ndarray:
    if size is None or tuple(size) == labels.shape:
        return labels
    if min(size) < 1:
        raise OptionError(f"a picture cannot have the size {tuple(size)}; pass (rows, cols) of at least 1")
    rows, cols = (((2 * np.arange(n) + 1) * old) // (2 * n) for n, old in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, cols)]


# ── the outline of an object from a saliency map ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One object.

    Attributes:
        mask: its pixels, (rows, cols) of the picture.
        box: the tight box of the mask.
    """

    mask: Bool[ndarray, "rows cols"]
    box: Box


def segment_object(
    image: ImageLike,
    map: Explanation | Float[Tensor, "r c"],
    foreground: float = 0.95,
    background: float = 0.30,
    components: int = 5,
    iterations: int = 5,
    max_side: int = 640,
) -> Segmentation:
    """The object that a saliency map points at, outlined by color: weakly supervised segmentation.

    The colors of the pixels above the 95 % quantile of the map make the foreground model, those below the 30 %
    quantile the background model, each a mixture of Gaussians. A graph cut labels all pixels: by their color, and so
    that the border runs along edges of the picture. The largest connected component (4 neighbors) is the object.
    The map makes the models and nothing else: the cut may give its strongest pixels away, because a map is not always
    right. (Kept as foreground for good, they cost outlines: mean IoU 0.41 instead of 0.75 with SmoothGrad on 20
    cut-outs.) A sparse map has more ties than its quantiles can split: then its largest (smallest) value makes
    the model.

    Nothing is random: the mixtures start from a seeded k-means of ours, not from OpenCV's process-wide generator.

    Args:
        image: the picture that the map covers as a whole (for an explanation: `explanation.image`).
        map: grows to the picture by bilinear interpolation. Of a signed map the magnitude would be wrong: large is
            foreground.
        foreground, background: quantiles.
        components: Gaussians in each mixture; OpenCV's format has five at most.
        iterations: of k-means, when the mixtures are made.
        max_side: a larger picture is cut at this size, in pixels of its longer side, and the mask grows back: the time
            grows with the pixels, and the map is much coarser anyway.

    Raises:
        ConstantMapError: the map has one value everywhere.
        SeewhyError: the cut has all pixels on one side: the colors tell no object.
        MissingExtraError: `pip install 'seewhy[segmentation]'` has not been done.
        OptionError: quantiles that do not follow 0 < background < foreground < 1.
        NonFiniteError: the map holds NaN or infinity.
    """
    if not 0 < background < foreground < 1:
        raise OptionError(f"foreground={foreground}, background={background}: use 0 < background < foreground < 1")
    if not 1 <= components <= 5:
        raise OptionError(f"components={components} is not in 1 … 5, what OpenCV's graph cut takes; use 5")
    cv2 = require("cv2", "segmentation")
    picture = load_image(image).convert("RGB")
    size = picture.height, picture.width
    picture.thumbnail((max_side, max_side))
    pixels = np.array(picture)
    inside, outside = _seeds(map, pixels.shape[:2], foreground, background)
    models = [_mixture(pixels[seeds].astype(np.float64), components, iterations) for seeds in (outside, inside)]
    mask = np.full(inside.shape, cv2.GC_PR_BGD, dtype=np.uint8)  # nothing is settled: the models decide
    cv2.grabCut(pixels, mask, None, *models, 1, cv2.GC_EVAL_FREEZE_MODEL)
    found = mask == cv2.GC_PR_FGD
    if not found.any() or found.all():
        raise SeewhyError(
            "the graph cut finds no outline: under the map's peak are the same colors as elsewhere; "
            "try another method, layer or target"
        )
    return _largest(_grown(found, size))


def _seeds(
    map: Explanation | Tensor, size: tuple[int, int], foreground: float, background: float
) -> tuple[Bool[ndarray, "rows cols"], Bool[ndarray, "rows cols"]]:
    values = map.attribution if isinstance(map, Explanation) else map.detach().to("cpu", torch.float32)
    if not torch.isfinite(values).all():
        raise NonFiniteError("the map holds NaN or infinity; run the model in float32")
    if values.max() == values.min():
        raise ConstantMapError(
            f"the map is {values.max():.3g} everywhere and points at nothing; try another layer, target or method"
        )
    grown = resize(values, size).numpy()
    low, high = np.quantile(grown, [background, foreground])
    inside, outside = grown > high, grown < low
    return inside if inside.any() else grown == grown.max(), outside if outside.any() else grown == grown.min()


def _mixture(colors: Float[ndarray, "n 3"], components: int, iterations: int) -> Float[ndarray, "1 65"]:
    """Gaussians of the colors in OpenCV's layout: 5 weights, 5 means, 5 covariances; unused ones weigh nothing."""
    kmeans = require("scipy.cluster.vq", "cluster").kmeans2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a Gaussian that ends without members weighs nothing: no harm
        labels = kmeans(colors, _spread_out(colors, components), iter=iterations, minit="matrix")[1]
    weights, means, covariances = np.zeros(5), np.zeros((5, 3)), np.tile(np.eye(3), (5, 1, 1))
    for k in np.unique(labels):
        members = colors[labels == k]
        centered = members - members.mean(0)
        weights[k], means[k] = len(members) / len(colors), members.mean(0)
        # one gray level of variance more: a single color has none, and OpenCV divides by the determinant
        covariances[k] = centered.T @ centered / len(members) + np.eye(3)
    return np.concatenate([weights, means.ravel(), covariances.ravel()])[None]


def _spread_out(colors: Float[ndarray, "n 3"], k: int) -> Float[ndarray, "m 3"]:
    """At most k starting points: the color nearest to the mean, then each time the one farthest from those taken."""
    start = [colors[((colors - colors.mean(0)) ** 2).sum(1).argmin()]]
    distance = ((colors - start[0]) ** 2).sum(1)
    while len(start) < k and distance.max() > 0:
        start.append(colors[distance.argmax()])
        distance = np.minimum(distance, ((colors - start[-1]) ** 2).sum(1))
    return np.stack(start)


def _largest(mask: Bool[ndarray, "rows cols"]) -> Segmentation:
    parts, _ = require("scipy.ndimage", "cluster").label(mask)
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    largest = parts == areas.argmax()
    return Segmentation(largest, tight_box(largest))


__all__ = [
    "Box",
    "Component",
    "Segmentation",
    "background_clusters",
    "choose_box",
    "component_boxes",
    "foreground_cluster",
    "grown_labels",
    "inner_box",
    "segment_object",
    "tight_box",
]
