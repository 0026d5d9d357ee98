"""What "nothing to see" looks like: the named baselines of path methods."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seewhy.models.adapter import VisionModel


def black(model: VisionModel, x: Tensor) -> Tensor:
    """A black photo, sent through the model's own preprocessing."""
    picture = model.preprocess(Image.new("RGB", (x.shape[-1], x.shape[-2])))
    return picture[:, :1, :1].to(x).expand_as(x)


def zero(model: VisionModel, x: Tensor) -> Tensor:
    """Zero after normalisation: the mean colour of the training data."""
    return torch.zeros_like(x)


def mean(model: VisionModel, x: Tensor) -> Tensor:
    """Each image's own mean colour."""
    return x.mean((2, 3), keepdim=True).expand_as(x)


def blur(model: VisionModel, x: Tensor) -> Tensor:
    """Each image blurred by a Gaussian with σ = 1/16 of its shorter side (14 px at 224, as in seed 002)."""
    return gaussian_blur(x, min(x.shape[-2:]) / 16)


def gaussian_blur(x: Float[Tensor, "batch channels height width"], sigma: float) -> Tensor:
    """Separable Gaussian blur; σ in pixels, kernel to 3σ, borders replicated."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel.mT, groups=x.shape[1])


BASELINES: dict[str, Callable[[VisionModel, Tensor], Tensor]] = {
    "black": black, "zero": zero, "mean": mean, "blur": blur,
}
