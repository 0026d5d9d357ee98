"""From a label map to boxes: the components of a label map, and one box chosen without ground truth.

An inner box for each component and the choice among them follow NAVE (arXiv:2411.19700).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Integer
from numpy import ndarray
from torch import Tensor

from seewhy.core.boxes import Box, inner_box, tight_box
from seewhy.errors import OptionError, require

MIN_AREA = 784
"""Pixels of the image's own size: 28 × 28."""

BORDER = 14
"""Pixels of the image's own size."""

BOX_KINDS = {"tight": tight_box, "inner": inner_box}
"""Ways to draw a box around a component."""


@dataclass(frozen=True)
class Component:
    """One connected part of a cluster.

    Attributes:
        cluster: The label that it has.
        box: The tight box.
        inner: The box around its median pixel that reaches to the nearest of its extremes on each axis.
        area: The number of its pixels.
        core: How many of them lie in the inner box.
    """

    cluster: int
    box: Box
    inner: Box
    area: int
    core: int

    @property
    def presence(self) -> float:
        """core² / area of the inner box: pixels of the core, less where the inner box is not filled.

        Large for a large compact object; small for a ring, a frame or scattered pieces, whatever their size.
        """
        return self.core**2 / self.inner.area


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One object.

    Attributes:
        mask: Its pixels, (rows, cols) of the image.
        box: The tight box of the mask.
    """

    mask: Bool[ndarray, "rows cols"]
    box: Box


def component_boxes(
    labels: Integer[ndarray, "rows cols"] | Integer[Tensor, "rows cols"],
    size: tuple[int, int] | None = None,
    min_area: int | None = None,
    border: int | None = None,
) -> list[Component]:
    """Return the connected components (4 neighbors) of every cluster, the largest of each cluster first.

    As the authors' script, in this order: components, small ones dropped, then the edge of the image cut off; a
    component that lies in the edge alone is gone.

    Args:
        labels: Cluster of each cell; negative where a cell belongs to none.
        size: (rows, cols) of the image; the labels grow to it by nearest neighbor. Default: the labels' own.
        min_area: Smaller components (in the image's pixels) are dropped. Default: the paper's 784.
        border: That many pixels along the image's edge are cut off every component. Default: the paper's 14.
            An image whose short side is below 224 pixels has both defaults in proportion.

    Raises:
        MissingExtraError: When `pip install 'seewhy[cluster]'` has not been done.
        OptionError: When a size, an area or a border is out of range.
    """
    grown = _numpy(labels) if size is None else resize_labels(labels, size)
    scale = min(1.0, min(grown.shape) / 224)
    min_area = round(MIN_AREA * scale**2) if min_area is None else min_area
    border = round(BORDER * scale) if border is None else border
    if min_area < 0 or border < 0:
        raise OptionError(f"min_area={min_area}, border={border}: neither can be negative; use 0 to drop nothing")
    return list(_components(grown, max(1, min_area), border))


def _components(labels: ndarray, min_area: int, border: int) -> Iterator[Component]:
    label = require("scipy.ndimage", "cluster").label
    allowed = np.zeros(labels.shape, dtype=bool)
    allowed[border : labels.shape[0] - border, border : labels.shape[1] - border] = True
    for cluster in np.unique(labels[labels >= 0]):
        parts, _ = label(labels == cluster)  # scipy's default structure: 4 neighbors
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        for part in np.argsort(-areas, kind="stable"):
            if areas[part] < min_area:
                break
            inside = (parts == part) & allowed
            if inside.any():
                yield _component(int(cluster), inside)


def _component(cluster: int, mask: Bool[ndarray, "rows cols"]) -> Component:
    box, inner = tight_box(mask), inner_box(mask)
    return Component(cluster, box, inner, int(mask.sum()), int(mask[inner.cells()].sum()))


def background_clusters(labels: Integer[ndarray, "rows cols"] | Integer[Tensor, "rows cols"]) -> frozenset[int]:
    """Return the clusters with a larger share of the outermost ring of cells than of the whole map.

    What photographers put in the middle is the foreground; a cluster that lies evenly everywhere is not background.
    """
    cells = _numpy(labels)
    ring = np.ones(cells.shape, dtype=bool)
    ring[1:-1, 1:-1] = False
    return frozenset(int(c) for c in np.unique(cells[cells >= 0]) if (cells[ring] == c).mean() > (cells == c).mean())


def choose_box(components: Iterable[Component], background: Iterable[int] = ()) -> Component | None:
    """Choose one component without ground truth: of those that are not background the one with most presence.

    If everything is background the rule chooses among all. Our sources leave the exact rule open; this one is ours,
    so scores made with it are not the paper's.

    Returns:
        The component, the first one among equals, or None if there are none.
    """
    components, background = list(components), frozenset(background)
    foreground = [c for c in components if c.cluster not in background]
    return max(foreground or components, key=lambda c: c.presence, default=None)


def foreground_cluster(labels: Integer[ndarray, "rows cols"] | Integer[Tensor, "rows cols"]) -> int:
    """Return the cluster of the chosen component, on the label map's own grid with nothing dropped.

    Raises:
        OptionError: When no cell belongs to a cluster.
    """
    chosen = choose_box(component_boxes(labels, min_area=0, border=0), background_clusters(labels))
    if chosen is None:
        raise OptionError("no cell of the label map belongs to a cluster; pass labels of 0 or more")
    return chosen.cluster


def largest_boxes(regions: Bool[Tensor, "batch rows cols"], kind: str) -> Float64[Tensor, "batch 4"]:
    """Return the box of each region's largest connected part (4 neighbors).

    Of equal parts the one that comes first in reading order counts; a region without pixels gets zeros. The parts are
    found on the CPU, one image after the other.

    Args:
        regions: One region per image.
        kind: `tight` or `inner`.

    Raises:
        MissingExtraError: When `pip install 'seewhy[cluster]'` has not been done.
    """
    boxes = [_largest_box(region, kind) for region in regions.cpu().numpy()]
    return torch.tensor(boxes, dtype=torch.float64, device=regions.device)


def _largest_box(region: Bool[ndarray, "rows cols"], kind: str) -> tuple[int, int, int, int]:
    part = largest_part(region)
    if not part.any():
        return 0, 0, 0, 0
    box = BOX_KINDS[kind](part)
    return box.left, box.top, box.right, box.bottom


def largest_part(mask: Bool[ndarray, "rows cols"]) -> Bool[ndarray, "rows cols"]:
    """Return the largest connected part (4 neighbors) of a mask; of equal ones the first in reading order.

    Raises:
        MissingExtraError: When `pip install 'seewhy[cluster]'` has not been done.
    """
    parts, number = require("scipy.ndimage", "cluster").label(mask)
    if not number:
        return np.zeros_like(mask)
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    largest: ndarray = parts == areas.argmax()
    return largest


def resize_labels(
    labels: Integer[ndarray, "r c"] | Bool[ndarray, "r c"] | Integer[Tensor, "r c"], size: tuple[int, int]
) -> Integer[ndarray, "rows cols"] | Bool[ndarray, "rows cols"]:
    """Resize a label map or a mask by nearest neighbor, pixel centers on pixel centers.

    Raises:
        OptionError: When a side of the size is below 1.
    """
    cells = _numpy(labels)
    if tuple(size) == cells.shape:
        return cells
    if min(size) < 1:
        raise OptionError(f"the size must be (rows, cols) of at least 1, got {tuple(size)}; pass the image's size")
    rows, cols = (((2 * np.arange(n) + 1) * old) // (2 * n) for n, old in zip(size, cells.shape, strict=True))
    return cells[np.ix_(rows, cols)]


def _numpy(values: ndarray | Tensor) -> ndarray:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


__all__ = [
    "BOX_KINDS",
    "Component",
    "Segmentation",
    "background_clusters",
    "choose_box",
    "component_boxes",
    "foreground_cluster",
    "largest_boxes",
    "largest_part",
    "resize_labels",
]
