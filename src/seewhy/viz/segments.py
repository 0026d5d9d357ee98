"""Segments, outlines and boxes drawn over photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Integer
from numpy import ndarray
from PIL import Image, ImageColor, ImageDraw

from seewhy.core.boxes import Box
from seewhy.core.fonts import font
from seewhy.core.segmentation import Component, Segmentation, resize_labels
from seewhy.viz.figures import grid

if TYPE_CHECKING:
    from seewhy.explanation import Explanation
    from seewhy.methods.clustering.segments import PictureSegments

# Paul Tol's "muted" scheme: ten colors that people with any common color-blindness can tell apart. The largest
# cluster, mostly background, gets the gray. More clusters than colors begin again; the numbers tell them apart.
COLORS = ("#dddddd", "#cc6677", "#332288", "#ddcc77", "#117733", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
PALE = 0.75  # how far the photo outside a cluster fades
TINT = 0.55  # how much of the cluster's color lies over the photo
CHOSEN = "#ffffff"
EDGE = "#1a1a1a"


def segments_figure(
    found: Sequence[PictureSegments], names: Sequence[str] | None = None, title: str | None = None, cell: int = 260
) -> Image.Image:
    """One row for each photo: the photo, all its segments in colors, then one column for each cluster.

    In a cluster's column the photo shows through where the cluster is; a thin box stands round each of its parts,
    and a thick white one round the part that was chosen as the one in front.
    """
    most = max(len(one.similarity) for one in found)
    joint = len(found) > 1
    columns = ["photo", "segments", *(f"cluster {c}" for c in range(most))]
    rows, captions = [], []
    for one in found:
        photo = _shrunk(one.image, cell)
        labels = resize_labels(one.labels, (photo.height, photo.width))
        used = [c for c in range(len(one.similarity)) if one.shares[c]]
        drawn = {c: _cluster(photo, labels, c, one) for c in used}
        rows.append([photo, _all(photo, labels, one), *(drawn.get(c) for c in range(most))])
        notes = (_caption(one, c) if c in drawn else "" for c in range(most))
        captions.append([_size(one.image), _choice(one), *notes])
    return grid(rows, list(names) if joint and names else None, columns, title, captions, cell)


def object_figure(
    explanation: Explanation, found: Segmentation, title: str | None = None, cell: int = 260
) -> Image.Image:
    """The photo, the map, and the object's outline and box."""
    photo = _shrunk(explanation.image, cell)
    inside = resize_labels(found.mask.astype(np.int64), (photo.height, photo.width)) == 1
    picture = _outlined(_faded(photo, inside), inside, COLORS[1])
    _boxes(picture, [(found.box, CHOSEN, 2)], explanation.image)
    share = f"{found.mask.mean():.0%} of the picture"
    columns = ["photo", explanation.method_title, "object by graph cut"]
    captions = [_size(explanation.image), explanation.target_title, share]
    return grid([[photo, explanation, picture]], None, columns, title, [captions], cell)


def color_of(cluster: int) -> str:
    """The cluster's color; the same number has the same color in every picture."""
    return COLORS[cluster % len(COLORS)]


def _size(image: Image.Image) -> str:
    return f"{image.width} × {image.height}"


def _choice(one: PictureSegments) -> str:
    return f"in front: cluster {one.chosen.cluster}" if one.chosen else "all parts are too small for a box"


def _caption(one: PictureSegments, cluster: int) -> str:
    where = "along the edge" if cluster in one.background else "inside"
    return f"{one.shares[cluster]:.0%}, {where}"


def _shrunk(image: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _all(photo: Image.Image, labels: Integer[ndarray, "rows cols"], one: PictureSegments) -> Image.Image:
    """Every segment in its color, with its number on its largest part."""
    colors = np.array([ImageColor.getrgb(color_of(c)) for c in range(len(one.similarity))], dtype=np.float32)
    gray = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    pixels = np.rint(gray * (1 - TINT) + colors[labels] * TINT).astype(np.uint8)
    pixels[borders(labels)] = ImageColor.getrgb(EDGE)
    picture = Image.fromarray(pixels)
    if one.chosen:
        _boxes(picture, [(one.chosen.box, CHOSEN, 2)], one.image)
    _numbers(picture, one)
    return picture


def _cluster(
    photo: Image.Image, labels: Integer[ndarray, "rows cols"], cluster: int, one: PictureSegments
) -> Image.Image:
    inside = labels == cluster
    picture = _outlined(_faded(photo, inside), inside, color_of(cluster))
    own = [part for part in one.components if part.cluster == cluster and part is not one.chosen]
    front = [one.chosen] if one.chosen and one.chosen.cluster == cluster else []
    _boxes(picture, [*((p.box, color_of(cluster), 1) for p in own), *((p.box, CHOSEN, 2) for p in front)], one.image)
    return picture


def _faded(photo: Image.Image, inside: Bool[ndarray, "rows cols"]) -> ndarray:
    pixels = np.asarray(photo, dtype=np.float32)
    gray = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    return np.rint(np.where(inside[..., None], pixels, gray * (1 - PALE) + 255 * PALE)).astype(np.uint8)


def _outlined(pixels: ndarray, inside: Bool[ndarray, "rows cols"], color: str) -> Image.Image:
    """A dark line and beside it, on the inner side, one in the color: seen on any photo."""
    line = borders(inside.astype(np.int64))
    pixels[line & inside] = ImageColor.getrgb(color)
    pixels[line & ~inside] = ImageColor.getrgb(EDGE)
    return Image.fromarray(pixels)


def borders(labels: Integer[ndarray, "rows cols"]) -> Bool[ndarray, "rows cols"]:
    """The pixels with a neighbor (4) of another label."""
    found = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def _boxes(picture: Image.Image, boxes: Sequence[tuple[Box, str, int]], image: Image.Image) -> None:
    """Boxes of the full-size image on its small picture: (box, color, width), each with a dark edge."""
    pen, scale = ImageDraw.Draw(picture), picture.width / image.width
    for box, color, width in boxes:
        edges = (
            round(box.left * scale),
            round(box.top * scale),
            max(round(box.right * scale) - 1, round(box.left * scale)),
            max(round(box.bottom * scale) - 1, round(box.top * scale)),
        )
        pen.rectangle(edges, outline=EDGE, width=width + 2)
        inner = (edges[0] + 1, edges[1] + 1, max(edges[0] + 1, edges[2] - 1), max(edges[1] + 1, edges[3] - 1))
        pen.rectangle(inner, outline=color, width=width)


def _numbers(picture: Image.Image, one: PictureSegments) -> None:
    pen, scale, points = ImageDraw.Draw(picture), picture.width / one.image.width, max(11, picture.width // 16)
    largest: dict[int, Component] = {}
    for part in one.components:
        largest.setdefault(part.cluster, part)
    for cluster, part in largest.items():
        middle = ((part.inner.left + part.inner.right) / 2 * scale, (part.inner.top + part.inner.bottom) / 2 * scale)
        pen.text(
            middle, str(cluster), fill="white", font=font(points, True), anchor="mm", stroke_width=2, stroke_fill=EDGE
        )
