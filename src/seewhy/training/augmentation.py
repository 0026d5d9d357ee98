"""Random views of an image, with the default arguments of torchvision."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image
from torch import Tensor

from seewhy.core.preprocess import Preprocess
from seewhy.models.adapter import PreprocessFunction

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def random_crop(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return the box of a random crop as torchvision's `RandomResizedCrop`: left, top, right, bottom.

    Its area is 8 to 100 % of the image's, its ratio 3:4 to 4:3 (log-uniform); after ten tries that do not fit, the
    largest box in the middle with a ratio in these limits.

    Args:
        width: Of the image.
        height: Of the image.
        rng: What draws.
    """
    for _ in range(10):
        area = rng.uniform(*AREA) * width * height
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_view(image: Image.Image, preprocess: PreprocessFunction, rng: np.random.Generator) -> Tensor:
    """Return the input for a random crop of an image, mirrored half of the time.

    Args:
        image: The image.
        preprocess: Of the model; the crop is stretched to its size.
        rng: What draws.
    """
    view = image.crop(random_crop(image.width, image.height, rng))
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if isinstance(preprocess, Preprocess):
        preprocess = replace(preprocess, resize=preprocess.size, crop="squash")
    return preprocess(view)
