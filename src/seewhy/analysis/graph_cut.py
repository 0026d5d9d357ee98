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
from seewhy.core.segmentation import Segmentation as Segmentation, largest_part, resize_labels
from seewhy.errors import ConstantMapError, NonFiniteError, OptionError, SeewhyError, require
from seewhy.explanation import Explanation


def segment_object(
    image: ImageLike,
    attribution: Explanation | Float[Tensor, "r c"],
    foreground: float = 0.95,
    background: float = 0.30,
    components: int = 5,
    iterations: int = 5,
    max_side: int = 640,
) -> Segmentation:
    """Outline the object that a saliency map points at, by color: weakly supervised segmentation.

    The colors of the pixels above the 95 % quantile of the map make the foreground model, those below the 30 %
    quantile the background model, each a mixture of Gaussians. A graph cut labels all pixels: by their color, and so
    that the border runs along edges of the image. The largest connected component (4 neighbors) is the object.
    The map makes the models and nothing else: the cut may give its strongest pixels away, because a map is not always
    right. (Kept as foreground for good, they cost outlines: mean IoU 0.41 instead of 0.75 with SmoothGrad on 20
    cut-outs.) A sparse map has more ties than its quantiles can split: then its largest (smallest) value makes
    the model.

    Nothing is random: the mixtures start from a seeded k-means of ours, not from OpenCV's process-wide generator.

    Args:
        image: The image that the map covers as a whole (for an explanation: `explanation.image`).
        attribution: The map; resized to the image by bilinear interpolation. Of a signed map the magnitude would be
            wrong: large is foreground.
        foreground: Quantile above which the map makes the foreground model.
        background: Quantile below which the map makes the background model.
        components: Gaussians in each mixture; OpenCV's format has five at most.
        iterations: Iterations of k-means, when the mixtures are made.
        max_side: A larger image is cut at this size, in pixels of its longer side, and the mask is enlarged: the time
            grows with the pixels, and the map is much coarser anyway.

    Raises:
        ConstantMapError: When the map has one value everywhere.
        SeewhyError: When the cut has all pixels on one side: the colors do not separate an object.
        MissingExtraError: When the extra `segmentation` is not installed.
        OptionError: When quantiles do not follow 0 < background < foreground < 1, or components are out of range.
        NonFiniteError: When the map holds NaN or infinity.
    """
    if not 0 < background < foreground < 1:
        raise OptionError(
            f"need 0 < background < foreground < 1, got background={background}, foreground={foreground}; "
            "use for example 0.3 and 0.95"
        )
    if not 1 <= components <= 5:
        raise OptionError(f"components must be in 1 … 5 (what OpenCV's graph cut takes), got {components}; use 5")
    cv2 = require("cv2", "segmentation")
    small = load_image(image).convert("RGB")
    size = small.height, small.width
    small.thumbnail((max_side, max_side))
    pixels = np.array(small)
    inside, outside = _seeds(attribution, (small.height, small.width), foreground, background)
    models = [_mixture(pixels[seeds].astype(np.float64), components, iterations) for seeds in (outside, inside)]
    mask = np.full(inside.shape, cv2.GC_PR_BGD, dtype=np.uint8)  # nothing is settled: the models decide
    cv2.grabCut(pixels, mask, None, *models, 1, cv2.GC_EVAL_FREEZE_MODEL)
    cut = mask == cv2.GC_PR_FGD
    if not cut.any() or cut.all():
        raise SeewhyError(
            "the graph cut finds no outline: the colors under the map's peak occur everywhere; "
            "try another method, layer or target"
        )
    outline = largest_part(resize_labels(cut, size))
    return Segmentation(outline, tight_box(outline))


def _seeds(
    attribution: Explanation | Tensor, size: tuple[int, int], foreground: float, background: float
) -> tuple[Bool[ndarray, "rows cols"], Bool[ndarray, "rows cols"]]:
    """Return the pixels that make the foreground model, and those that make the background model."""
    if isinstance(attribution, Explanation):
        values = attribution.attribution
    else:
        values = attribution.detach().to("cpu", torch.float32)
    if not torch.isfinite(values).all():
        raise NonFiniteError("the map holds NaN or infinity; run the model in float32")
    if values.max() == values.min():
        raise ConstantMapError(
            f"the map is {values.max():.3g} everywhere and points at nothing; try another layer, target or method"
        )
    resized = resize(values, size).numpy()
    low, high = np.quantile(resized, [background, foreground])
    inside, outside = resized > high, resized < low
    if not inside.any():
        inside = resized == resized.max()
    if not outside.any():
        outside = resized == resized.min()
    return inside, outside


def _mixture(colors: Float[ndarray, "n 3"], components: int, iterations: int) -> Float[ndarray, "1 65"]:
    """Fit Gaussians in OpenCV's layout: 5 weights, 5 means, 5 covariances; unused ones weigh nothing."""
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
    """Return at most k starting points: the color nearest to the mean, then each time the farthest from those taken."""
    start = [colors[((colors - colors.mean(0)) ** 2).sum(1).argmin()]]
    distance = ((colors - start[0]) ** 2).sum(1)
    while len(start) < k and distance.max() > 0:
        start.append(colors[distance.argmax()])
        distance = np.minimum(distance, ((colors - start[-1]) ** 2).sum(1))
    return np.stack(start)
