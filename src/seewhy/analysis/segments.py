"""Segment images by clustering a model's activations (NAVE); boxes without ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from PIL import Image
from torch import Tensor, nn

from seewhy.core.deep import DeepImage
from seewhy.core.images import MAX_PIXELS, ImageLike, ReadImage
from seewhy.core.segmentation import Component, background_clusters, choose_box, component_boxes
from seewhy.methods.clustering.nave import NAVE
from seewhy.methods.factory import as_method
from seewhy.models.adapter import VisionModel


@dataclass(frozen=True, eq=False)
class ImageSegments:
    """The segments of one image.

    Attributes:
        image: What the model saw of the image (`VisionModel.visible_region`), in the image's own resolution.
        labels: The cluster of each cell of the grid that covers `image`.
        similarity: Of each cell to each centroid.
        components: Connected parts with boxes in the pixels of `image`.
        background: The clusters that lie along the image's edge.
        chosen: The component in front; None if all are too small.
    """

    image: Image.Image
    labels: Int64[ndarray, "rows cols"]
    similarity: Float[Tensor, "k rows cols"]
    components: list[Component]
    background: frozenset[int]
    chosen: Component | None

    @property
    def shares(self) -> list[float]:
        """The share of the image that each cluster covers."""
        return [float((self.labels == c).mean()) for c in range(len(self.similarity))]

    @property
    def is_constant(self) -> bool:
        """Whether everything is one cluster, so that the segments say nothing."""
        return bool((self.labels == self.labels[0, 0]).all())


@overload
def segment(
    model: VisionModel,
    images: ImageLike,
    k: int | None = 5,
    *,
    layers: Sequence[str | nn.Module | int] | None = None,
    joint: bool = False,
    balance: str = "equal",
    min_area: int | None = None,
    border: int | None = None,
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> ImageSegments: ...
@overload
def segment(
    model: VisionModel,
    images: Sequence[ImageLike],
    k: int | None = 5,
    *,
    layers: Sequence[str | nn.Module | int] | None = None,
    joint: bool = False,
    balance: str = "equal",
    min_area: int | None = None,
    border: int | None = None,
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> list[ImageSegments]: ...
def segment(
    model: VisionModel,
    images: ImageLike | Sequence[ImageLike],
    k: int | None = 5,
    *,
    layers: Sequence[str | nn.Module | int] | None = None,
    joint: bool = False,
    balance: str = "equal",
    min_area: int | None = None,
    border: int | None = None,
    max_pixels: int = MAX_PIXELS,
    **options: Any,
) -> ImageSegments | list[ImageSegments]:
    """Segment one image, or each of several, by clustering the model's activations (NAVE). Label-free.

    Args:
        model: A model of `seewhy.load_model` or `seewhy.wrap`.
        images: A path, PIL image, array or tensor, or a list of them.
        k: Number of segments; None: the one of 3 to 10 with the best silhouette.
        layers: Dotted names, modules or stage numbers; default: every block of a transformer, the last three stages
            of other models.
        joint: Whether to cluster all images together, so that the same number means the same in each.
        balance: Weights of the layers: `equal`, or by their `channels` (the paper), with which the shallow layers of
            a network whose channels grow fast decide alone.
        min_area: Parts with fewer pixels get no box, see `seewhy.core.segmentation.component_boxes`.
        border: Pixels along the edge that are in no box, likewise.
        max_pixels: The largest image that is decoded.
        **options: More options of `seewhy.methods.NAVE`.

    Returns:
        The segments of one image, or a list for several.

    Raises:
        ImageError: When an image cannot be read, or (with `joint`) the images differ in size after preprocessing.
        RequirementError: When the model has fewer than two layers on a grid.
        OptionError: When an option is out of range.
        UnknownNameError: When there is no layer of that name.
        MissingExtraError: When scikit-learn is not installed.
    """
    values = {"k": k, "layers": layers, "joint": joint, "balance": balance, **options}
    nave = cast(NAVE, as_method(model, NAVE, **values))
    if isinstance(images, str | Path | Image.Image | np.ndarray | Tensor | DeepImage):
        return segment_images(nave, [model.opened(images, max_pixels)()], min_area, border)[0]
    loaded = [model.opened(image, max_pixels)() for image in images]
    batches = [loaded] if joint else [[image] for image in loaded]
    return [one for batch in batches for one in segment_images(nave, batch, min_area, border)]


def segment_images(
    nave: NAVE, images: Sequence[ReadImage], min_area: int | None = None, border: int | None = None
) -> list[ImageSegments]:
    """Segment images in one batch; with `nave.joint` the clusters are those of all together.

    Args:
        nave: The configured method.
        images: Images as `seewhy.core.images.read_image` returns them.
        min_area: In pixels of the image, see `seewhy.core.segmentation.component_boxes`.
        border: Likewise.

    Raises:
        ImageError: When the images differ in size after the model's preprocessing.
        SeewhyError: As for `NAVE.segments`.
    """
    labels, similarity = nave.explore(nave.model.preprocess_batch(images))
    return [
        _with_boxes(nave.model.visible_region(image), labels[i].cpu().numpy(), similarity[i].cpu(), min_area, border)
        for i, image in enumerate(images)
    ]


def _with_boxes(
    image: Image.Image,
    labels: Int64[ndarray, "rows cols"],
    similarity: Float[Tensor, "k rows cols"],
    min_area: int | None,
    border: int | None,
) -> ImageSegments:
    components = component_boxes(labels, (image.height, image.width), min_area, border)
    background = background_clusters(labels)
    return ImageSegments(
        image, np.asarray(labels), similarity, components, background, choose_box(components, background)
    )
