"""Photos in, segments with boxes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from PIL import Image
from torch import Tensor

from seewhy.core.segmentation import Component, background_clusters, choose_box, component_boxes
from seewhy.methods.clustering.nave import NAVE


@dataclass(frozen=True, eq=False)
class PictureSegments:
    """What NAVE finds in one photo.

    Attributes:
        image: what the model saw of the photo (`VisionModel.view`), in the photo's own resolution.
        labels: the cluster of each cell of the grid that covers `image`.
        similarity: of each cell to each centroid.
        components: connected parts with boxes in the pixels of `image`.
        background: the clusters that lie along the picture's edge.
        chosen: the component in front; None if all are too small.
    """

    image: Image.Image
    labels: Int64[ndarray, "rows cols"]
    similarity: Float[Tensor, "k rows cols"]
    components: list[Component]
    background: frozenset[int]
    chosen: Component | None

    @property
    def shares(self) -> list[float]:
        """The share of the picture that each cluster covers."""
        return [float((self.labels == c).mean()) for c in range(len(self.similarity))]

    @property
    def is_constant(self) -> bool:
        """Whether everything is one cluster, so that the segments say nothing."""
        return bool((self.labels == self.labels[0, 0]).all())


def segment_pictures(
    nave: NAVE, pictures: Sequence[Image.Image], min_area: int | None = None, border: int | None = None
) -> list[PictureSegments]:
    """Segments and boxes of photos, in one batch (with `nave.joint` the clusters are those of all together).

    Args:
        nave: the configured method.
        pictures: as `seewhy.core.images.load_image` gives them.
        min_area, border: in pixels of the photo, see `component_boxes`.

    Raises:
        ImageError: the photos do not have one size after the model's preprocessing. Others as `NAVE.segments`.
    """
    labels, similar = nave.explore(nave.model.preprocess_batch(pictures))
    return [
        _of_one(nave.model.visible_region(picture), own.cpu().numpy(), s.cpu(), min_area, border)
        for picture, own, s in zip(pictures, labels, similar, strict=True)
    ]


def _of_one(
    image: Image.Image,
    labels: Int64[ndarray, "rows cols"],
    similar: Float[Tensor, "k rows cols"],
    min_area: int | None,
    border: int | None,
) -> PictureSegments:
    parts = component_boxes(labels, (image.height, image.width), min_area, border)
    background = background_clusters(labels)
    return PictureSegments(image, np.asarray(labels), similar, parts, background, choose_box(parts, background))
