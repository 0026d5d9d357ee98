"""Segments, outlines and boxes drawn over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from numpy import ndarray
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from seewhy.core.boxes import Box
from seewhy.core.fonts import font
from seewhy.core.segmentation import Component, Segmentation, resize_labels
from seewhy.errors import OptionError
from seewhy.explanation import Explanation
from seewhy.viz.figures import Cell, grid

# Paul Tol's "muted" scheme: ten colors that people with any common color-blindness can tell apart. The largest
# cluster, mostly background, gets the gray. More clusters than colors begin again; the numbers tell them apart.
COLORS = ("#dddddd", "#cc6677", "#332288", "#ddcc77", "#117733", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
PALE = 0.75  # how far the image outside a cluster fades
TINT = 0.55  # how much of the cluster's color lies over the image
CHOSEN = "#ffffff"
EDGE = "#1a1a1a"


class Segmented(Protocol):
    """Protocol of segments that can be drawn; see `seewhy.analysis.ImageSegments`."""

    @property
    def image(self) -> Image.Image:
        """What the model saw."""
        ...

    @property
    def labels(self) -> Integer[ndarray, "rows cols"]:
        """The cluster of each cell of the grid that covers the image."""
        ...

    @property
    def similarity(self) -> Float[Tensor, "k rows cols"]:
        """Of each cell to each centroid."""
        ...

    @property
    def components(self) -> Sequence[Component]:
        """Connected parts, the largest of each cluster first."""
        ...

    @property
    def background(self) -> frozenset[int]:
        """The clusters along the image's edge."""
        ...

    @property
    def chosen(self) -> Component | None:
        """The component in front."""
        ...

    @property
    def shares(self) -> Sequence[float]:
        """The share of the image that each cluster covers."""
        ...


def segments_figure(
    segmented: Sequence[Segmented], names: Sequence[str] | None = None, title: str | None = None, cell: int = 260
) -> Image.Image:
    """Draw one row for each image: the image, all its segments in colors, then one column for each cluster.

    In a cluster's column the image shows through where the cluster is; a thin box stands around each of its parts,
    and a thick white one around the part that was chosen as the one in front.

    Args:
        segmented: What `seewhy.segment` returns for a list of images.
        names: Of the images; shown if there are several.
        title: Above all.
        cell: Longest side of a cell in pixels.
    """
    most = max(len(one.similarity) for one in segmented)
    columns = ["image", "segments", *(f"cluster {c}" for c in range(most))]
    rows: list[list[Cell]] = []
    captions: list[list[str]] = []
    for one in segmented:
        small = _shrink(one.image, cell)
        labels = resize_labels(one.labels, (small.height, small.width))
        cells: list[Cell] = [small, _draw_all(small, labels, one)]
        notes = [_size(one.image), _chosen_note(one)]
        for cluster in range(most):
            present = cluster < len(one.similarity) and one.shares[cluster] > 0
            cells.append(_draw_cluster(small, labels, cluster, one) if present else None)
            notes.append(_cluster_note(one, cluster) if present else "")
        rows.append(cells)
        captions.append(notes)
    row_titles = list(names) if names and len(segmented) > 1 else None
    return grid(rows, row_titles, columns, title, captions, cell)


def object_figure(
    explanation: Explanation, segmentation: Segmentation, title: str | None = None, cell: int = 260
) -> Image.Image:
    """Draw the image, the map, and the object's outline and box.

    Args:
        explanation: The map.
        segmentation: What `seewhy.analysis.segment_object` makes of it.
        title: Above all.
        cell: Longest side of a cell in pixels.

    Raises:
        OptionError: When the explanation has no image.
    """
    image = explanation.image
    if image is None:
        raise OptionError("the explanation has no image to outline an object in; pass one of seewhy.explain")
    small = _shrink(image, cell)
    inside = resize_labels(segmentation.mask.astype(np.int64), (small.height, small.width)) == 1
    outlined = _draw_outline(_fade(small, inside), inside, COLORS[1])
    _draw_boxes(outlined, [(segmentation.box, CHOSEN, 2)], image)
    columns = ["image", explanation.method_title, "object by graph cut"]
    captions = [_size(image), explanation.target_title, f"{segmentation.mask.mean():.0%} of the image"]
    return grid([[small, explanation, outlined]], None, columns, title, [captions], cell)


def color_of(cluster: int) -> str:
    """Return the cluster's color; the same number has the same color in every image."""
    return COLORS[cluster % len(COLORS)]


def label_borders(labels: Integer[ndarray, "rows cols"]) -> Bool[ndarray, "rows cols"]:
    """Return the pixels with a neighbor (4) of another label."""
    borders = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    borders[1:] |= down
    borders[:-1] |= down
    borders[:, 1:] |= right
    borders[:, :-1] |= right
    return borders


def _size(image: Image.Image) -> str:
    return f"{image.width} × {image.height}"


def _chosen_note(one: Segmented) -> str:
    return f"in front: cluster {one.chosen.cluster}" if one.chosen else "all parts are too small for a box"


def _cluster_note(one: Segmented, cluster: int) -> str:
    where = "along the edge" if cluster in one.background else "inside"
    return f"{one.shares[cluster]:.0%}, {where}"


def _shrink(image: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _gray(image: Image.Image) -> Float[ndarray, "rows cols 3"]:
    return np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)


def _draw_all(image: Image.Image, labels: Integer[ndarray, "rows cols"], one: Segmented) -> Image.Image:
    """Draw every segment in its color, with its number on its largest part."""
    colors = np.array([ImageColor.getrgb(color_of(c)) for c in range(len(one.similarity))], dtype=np.float32)
    pixels = np.rint(_gray(image) * (1 - TINT) + colors[labels] * TINT).astype(np.uint8)
    pixels[label_borders(labels)] = ImageColor.getrgb(EDGE)
    figure = Image.fromarray(pixels)
    if one.chosen:
        _draw_boxes(figure, [(one.chosen.box, CHOSEN, 2)], one.image)
    _draw_numbers(figure, one)
    return figure


def _draw_cluster(
    image: Image.Image, labels: Integer[ndarray, "rows cols"], cluster: int, one: Segmented
) -> Image.Image:
    inside = labels == cluster
    figure = _draw_outline(_fade(image, inside), inside, color_of(cluster))
    parts = [part for part in one.components if part.cluster == cluster]
    boxes = [(part.box, color_of(cluster), 1) for part in parts if part is not one.chosen]
    boxes += [(part.box, CHOSEN, 2) for part in parts if part is one.chosen]
    _draw_boxes(figure, boxes, one.image)
    return figure


def _fade(image: Image.Image, inside: Bool[ndarray, "rows cols"]) -> UInt8[ndarray, "rows cols 3"]:
    pixels = np.asarray(image, dtype=np.float32)
    pale = _gray(image) * (1 - PALE) + 255 * PALE
    return np.rint(np.where(inside[..., None], pixels, pale)).astype(np.uint8)


def _draw_outline(pixels: UInt8[ndarray, "rows cols 3"], inside: Bool[ndarray, "rows cols"], color: str) -> Image.Image:
    """Draw a dark line and beside it, on the inner side, one in the color: seen on any image."""
    line = label_borders(inside.astype(np.int64))
    pixels[line & inside] = ImageColor.getrgb(color)
    pixels[line & ~inside] = ImageColor.getrgb(EDGE)
    return Image.fromarray(pixels)


def _draw_boxes(figure: Image.Image, boxes: Sequence[tuple[Box, str, int]], image: Image.Image) -> None:
    """Draw boxes of the full-size image on its small figure: (box, color, width), each with a dark edge."""
    pen, scale = ImageDraw.Draw(figure), figure.width / image.width
    for box, color, width in boxes:
        left, top = round(box.left * scale), round(box.top * scale)
        right = max(round(box.right * scale) - 1, left)
        bottom = max(round(box.bottom * scale) - 1, top)
        pen.rectangle((left, top, right, bottom), outline=EDGE, width=width + 2)
        inner = (left + 1, top + 1, max(left + 1, right - 1), max(top + 1, bottom - 1))
        pen.rectangle(inner, outline=color, width=width)


def _draw_numbers(figure: Image.Image, one: Segmented) -> None:
    pen, scale = ImageDraw.Draw(figure), figure.width / one.image.width
    points = max(11, figure.width // 16)
    largest: dict[int, Component] = {}
    for part in one.components:  # the largest of each cluster comes first
        largest.setdefault(part.cluster, part)
    for cluster, part in largest.items():
        middle = ((part.inner.left + part.inner.right) / 2 * scale, (part.inner.top + part.inner.bottom) / 2 * scale)
        bold = font(points, True)
        pen.text(middle, str(cluster), fill="white", font=bold, anchor="mm", stroke_width=2, stroke_fill=EDGE)
