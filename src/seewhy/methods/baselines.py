"""What "nothing to see" looks like: the named baselines of path methods.

A baseline is one function from (model, batch) to a batch. The decorator `@baseline` enters it under its name, and
every path method then takes that name; colors ("white", "#7f7f7f") and tensors need no entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageColor
from torch import Tensor

from seewhy.errors import OptionError
from seewhy.methods.base import make_generator
from seewhy.models.adapter import VisionModel

Baseline = Callable[[VisionModel, Tensor], Tensor]

BASELINES: dict[str, Baseline] = {}
"""Every named baseline; the first line of its docstring says what it is."""


def baseline(function: Baseline) -> Baseline:
    """Enter a baseline under its function's name.

    Raises:
        ValueError: the name is taken.
    """
    if function.__name__ in BASELINES:
        raise ValueError(f"baseline {function.__name__!r} is registered twice; choose another name")
    BASELINES[function.__name__] = function
    return function


@baseline
def black(model: VisionModel, x: Tensor) -> Tensor:
    """A black photo, sent through the model's own preprocessing."""
    return color("black")(model, x)


@baseline
def zero(model: VisionModel, x: Tensor) -> Tensor:
    """Zero after normalization: the mean color of the training data."""
    return torch.zeros_like(x)


@baseline
def mean(model: VisionModel, x: Tensor) -> Tensor:
    """Each image's own mean color."""
    return x.mean((2, 3), keepdim=True).expand_as(x)


@baseline
def blur(model: VisionModel, x: Tensor) -> Tensor:
    """Each image blurred by a Gaussian with σ = 1/16 of its shorter side (14 px at 224)."""
    return gaussian_blur(x, min(x.shape[-2:]) / 16)


@baseline
def noise(model: VisionModel, x: Tensor) -> Tensor:
    """A photo of uniform noise, the same for every image and in every run (`uniform_noise(seed)` for another)."""
    return uniform_noise(0)(model, x)


def uniform_noise(seed: int) -> Baseline:
    """A photo whose pixels are uniform between black and white in each channel, made from `seed`."""

    def function(model: VisionModel, x: Tensor) -> Tensor:
        dark, light = color("black")(model, x), color("white")(model, x)
        share = torch.rand(x.shape[1:], generator=make_generator(seed, x.device), device=x.device, dtype=torch.float32)
        return dark + share.to(x) * (light - dark)

    return function


def color(name: str) -> Baseline:
    """A photo of one color ("white", "#7f7f7f", "rgb(10,20,30)"), sent through the model's own preprocessing.

    Raises:
        ValueError: no such color.
    """
    pixel = ImageColor.getrgb(name)[:3]

    def function(model: VisionModel, x: Tensor) -> Tensor:
        picture = model.preprocess(Image.new("RGB", (x.shape[-1], x.shape[-2]), pixel))
        return picture[:, :1, :1].to(x).expand_as(x)

    return function


BASELINE = f"{', '.join(BASELINES)}, a color (white, #7f7f7f), a tensor or a function"


def check_baseline(given: Any) -> None:
    """Raise `OptionError` for a word that is neither a baseline nor a color."""
    if isinstance(given, str):
        _named(given)


def starting_images(model: VisionModel, x: Tensor, given: Any) -> Tensor:
    """The baseline of each image of the batch, of the batch's shape.

    Raises:
        OptionError: no such baseline, or a tensor of another shape.
    """
    made = _named(given) if isinstance(given, str) else given
    start = torch.as_tensor(made(model, x) if callable(made) else made).to(x)
    try:
        return start.expand_as(x)
    except RuntimeError:
        raise OptionError(
            f"the baseline has shape {tuple(start.shape)}, the batch {tuple(x.shape)}; "
            "give a tensor that broadcasts to the batch"
        ) from None


def _named(name: str) -> Baseline:
    if name in BASELINES:
        return BASELINES[name]
    try:
        return color(name)
    except ValueError:
        raise OptionError(f"baseline={name!r} is not one of {', '.join(BASELINES)}, nor a color") from None


def gaussian_blur(x: Float[Tensor, "batch channels height width"], sigma: float) -> Tensor:
    """Separable Gaussian blur; σ in pixels, kernel to 3σ, borders replicated."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel.mT, groups=x.shape[1])
