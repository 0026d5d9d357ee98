"""From a saliency map to the outline of one object.

A graph cut between the colors under the strongest and under the weakest part of a map (Simonyan et al., Deep Inside
Convolutional Networks, section 3.2).
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from seewhy.core.boxes import tight_box
from seewhy.core.images import ImageLike, load_image
from seewhy.core.maps import resize
from seewhy.core.segmentation import Segmentation, largest_part, resize_labels
from seewhy.errors import ConstantMapError, NonFiniteError, OptionError, SeewhyError, require
from seewhy.explanation import Explanation


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
    outline = largest_part(resize_labels(found, size))
    return Segmentation(outline, tight_box(outline))


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


__all__ = ["Segmentation", "segment_object"]
