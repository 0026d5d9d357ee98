"""Baseline images: what "nothing to see" looks like, for path methods and for what covers removed pixels.

A baseline is one function from (model, batch) to a batch. The decorator `@baseline` enters it under its name, and
every path method then takes that name; colors ("white", "#7f7f7f") and tensors need no entry.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageColor
from torch import Tensor

from seewhy.core.io import first_line
from seewhy.core.preprocess import Preprocess
from seewhy.core.volumes import VolumePreprocess
from seewhy.errors import OptionError
from seewhy.methods.base import make_generator
from seewhy.models.adapter import VisionModel

Baseline = Callable[[VisionModel, Tensor], Tensor]
"""From a model and its batch to an image for each image of the batch, or to what broadcasts to that."""

BaselineLike = str | float | Tensor | Baseline
"""What users give: a name or a color, one value, a tensor that broadcasts to the batch, or a function."""

BASELINE_IMAGES: dict[str, Baseline] = {}
"""Every named baseline; the first line of its docstring says what it is."""


def baseline(function: Baseline) -> Baseline:
    """Enter a baseline under its function's name.

    Raises:
        ValueError: When the name is taken.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if name in BASELINE_IMAGES:
        raise ValueError(f"baseline {name!r} is registered twice; choose another name")
    BASELINE_IMAGES[name] = function
    return function


@baseline
def black(model: VisionModel, x: Tensor) -> Tensor:
    """Return a black image, sent through the model's own preprocessing; of volumes the low end of their values."""
    return color("black")(model, x)


@baseline
def zero(model: VisionModel, x: Tensor) -> Tensor:
    """Return zero after normalization: the mean color of the training data."""
    return torch.zeros_like(x)


@baseline
def mean(model: VisionModel, x: Tensor) -> Tensor:
    """Return each image's own mean color."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True).expand_as(x)


@baseline
def blur(model: VisionModel, x: Tensor) -> Tensor:
    """Return each image blurred by a Gaussian with σ = 1/16 of its shorter side (14 px at 224)."""
    return gaussian_blur(x, min(x.shape[2:]) / 16)


@baseline
def noise(model: VisionModel, x: Tensor) -> Tensor:
    """Return uniform noise, the same for every image and in every run (`uniform_noise(seed)` for another)."""
    return uniform_noise(0)(model, x)


@baseline
def rise_blur(model: VisionModel, x: Tensor) -> Tensor:
    """Return each image blurred as in RISE's code for insertion: 11 × 11 pixels, σ = 5, mean color beyond the edge."""
    if x.ndim == 5:
        raise OptionError("rise_blur is that of images; of volumes use baseline='blur'")
    offsets = torch.arange(-20, 21)
    places = (5 + offsets) % 22  # their kernel is a dot, blurred in a window that reflects at its ends
    places = torch.where(places < 11, places, 21 - places)
    weights = torch.exp(-(offsets.to(x) ** 2) / 50)
    kernel = x.new_zeros(11).scatter_add_(0, places.to(x.device), weights / weights.sum())
    kernel = kernel.view(1, 1, 1, -1).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(x, kernel, padding=(0, 5), groups=x.shape[1])
    return F.conv2d(x, kernel.mT, padding=(5, 0), groups=x.shape[1])


def uniform_noise(seed: int) -> Baseline:
    """Return the baseline whose pixels are uniform between black and white in each channel, made from `seed`."""

    def function(model: VisionModel, x: Tensor) -> Tensor:
        dark, light = color("black")(model, x), color("white")(model, x)
        share = torch.rand(x.shape[1:], generator=make_generator(seed, x.device), device=x.device, dtype=torch.float32)
        return dark + share.to(x) * (light - dark)

    return function


def color(name: str) -> Baseline:
    """Return the baseline of one color, sent through the model's own preprocessing.

    Args:
        name: A color as Pillow reads it: "white", "#7f7f7f", "rgb(10,20,30)".

    Raises:
        ValueError: When there is no such color.
    """
    pixel = ImageColor.getrgb(name)[:3]

    def function(model: VisionModel, x: Tensor) -> Tensor:
        if x.ndim == 5:
            return _gray_volume(model, pixel, x)
        image = _preprocessed(model, pixel, x)
        return image[:, :1, :1].to(x).expand_as(x)

    return function


def _gray_volume(model: VisionModel, pixel: tuple[int, ...], x: Tensor) -> Tensor:
    """Return volumes of one gray: between the ends of the model's window, else of each volume and channel itself.

    Raises:
        OptionError: The color is no gray.
    """
    if len(set(pixel)) > 1:
        raise OptionError(f"the color {pixel} has no meaning in a volume; use a gray, or a tensor")
    over = tuple(range(2, x.ndim))
    low, high = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
    if isinstance(model.preprocess, VolumePreprocess) and model.preprocess.levels:
        mean, std = torch.tensor(model.preprocess.mean), torch.tensor(model.preprocess.std)
        low, high = ((((end - mean) / std).to(x).view(1, -1, 1, 1, 1)) for end in (0.0, 1.0))
    return (low + pixel[0] / 255 * (high - low)).expand_as(x)


def _preprocessed(model: VisionModel, pixel: tuple[int, ...], x: Tensor) -> Tensor:
    """Return an image of one color as the model gets it, with the channels of the batch.

    Raises:
        OptionError: The model's preprocessing makes none with as many channels.
    """
    rows, cols, rgb = x.shape[-2], x.shape[-1], (pixel[0], pixel[1], pixel[2])
    try:
        if isinstance(model.preprocess, Preprocess):
            image = model.preprocess_batch([model.preprocess.uniform(rgb, rows, cols)])[0]
        else:
            image = model.preprocess(Image.new("RGB", (cols, rows), rgb))
    except OptionError:
        raise
    except Exception as error:  # a function of the user's own, which may not know RGB
        raise _no_color(x, first_line(error)) from error
    if image.shape[0] != x.shape[1]:
        raise _no_color(x, f"it makes {image.shape[0]}")
    return image


def _no_color(x: Tensor, reason: str) -> OptionError:
    return OptionError(
        f"the model's preprocessing makes no image of one color with the batch's {x.shape[1]} channels ({reason}); use "
        "baseline='zero', 'mean' or 'blur', or a tensor with the value of each channel"
    )


BASELINE = f"{', '.join(BASELINE_IMAGES)}, a color (white, #7f7f7f), a tensor or a function"
"""What the help of an option `baseline` says."""


def check_baseline(baseline: BaselineLike) -> None:
    """Raise `OptionError` for a word that is neither a baseline nor a color."""
    if isinstance(baseline, str):
        _named(baseline)


def starting_images(model: VisionModel, x: Tensor, baseline: BaselineLike) -> Tensor:
    """Return the baseline of each image of the batch, of the batch's shape.

    Raises:
        OptionError: When there is no such baseline, or a tensor has another shape.
    """
    resolved = _named(baseline) if isinstance(baseline, str) else baseline
    start = torch.as_tensor(resolved(model, x) if callable(resolved) else resolved).to(x)
    try:
        return start.expand_as(x)
    except RuntimeError:
        raise OptionError(
            f"the baseline has shape {tuple(start.shape)}, the batch {tuple(x.shape)}; "
            "give a tensor that broadcasts to the batch"
        ) from None


def _named(name: str) -> Baseline:
    if name in BASELINE_IMAGES:
        return BASELINE_IMAGES[name]
    try:
        return color(name)
    except ValueError:
        names = ", ".join(BASELINE_IMAGES)
        raise OptionError(f"unknown baseline {name!r}; use {names}, or a color such as white or #7f7f7f") from None


def gaussian_blur(x: Float[Tensor, "batch channels *size"], sigma: float) -> Tensor:
    """Blur by a separable Gaussian; σ in pixels, kernel to 3σ, borders replicated."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel, axes, convolve = kernel / kernel.sum(), x.ndim - 2, F.conv2d if x.ndim == 4 else F.conv3d
    for axis in range(axes):  # the last first, as F.pad counts
        pad = [radius if side // 2 == axis else 0 for side in range(2 * axes)]
        shape = [len(kernel) if place == axes - 1 - axis else 1 for place in range(axes)]
        weight = kernel.view(1, 1, *shape).expand(x.shape[1], 1, *shape)
        x = convolve(F.pad(x, pad, mode="replicate"), weight, groups=x.shape[1])
    return x
