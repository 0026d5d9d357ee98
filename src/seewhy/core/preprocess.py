"""From an image to the model's input, and back to the region of the image that the model saw.

The geometry follows torchvision's `Resize` + `CenterCrop` on Pillow images to the pixel (and with it timm's evaluation
transform): `tests/core/test_preprocess.py` holds both against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from PIL import Image
from torch import Tensor

from seewhy.core.deep import DeepImage
from seewhy.core.images import ReadImage, load_image
from seewhy.core.options import check_option_names
from seewhy.core.recipes import FILTERS, changed, check, described, hf_recipe, timm_recipe
from seewhy.errors import ImageError, OptionError

Region = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of an image."""

LARGE, FAR = 4_000_000, 8
"""Only a resized image of more pixels, and so many times more than are seen, is not made whole before its crop."""

MOST = 400_000_000
"""Pixels of an input that are more than any memory holds in a batch."""

ASSUMED = "assumed (ImageNet's usual values): nothing says otherwise"


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, scale, normalize.

    Attributes:
        size: (rows, cols) of the model's input.
        resize: How large the image becomes before the crop. With crop "center" or "none" an int is its short side,
            and (rows, cols) the frame that it must cover, proportions kept; with "squash" it is stretched to that.
            None: no crop at all, the whole image is stretched to `size` (crop "none" and "pad": it keeps its own size).
        mean: One for each channel that the model takes, on the scale after `rescale`. With one, images become gray.
        std: Likewise.
        interpolation: A Pillow filter: nearest, box, bilinear, hamming, bicubic, lanczos.
        crop: "center" cuts `size` out of the middle (black where the image is too small), "squash" stretches first,
            "none" leaves the image as resized, so that inputs differ in size, "pad" fills it up, below and on the
            right, to multiples of `size` (a ViT's patch) with zeros, the mean color, and "border" fits all of it into
            `resize` and fills up around it with the mean color (timm's mode of that name).
        rescale: What the 8-bit levels are multiplied by; levels of deeper images are brought to the same scale, with
            fractions.
        offset: How half a pixel of crop offset is rounded: "round" as torchvision, "floor" as transformers.
        levels: Which values of images with more than 8 bits are black and white (a window of a CT, (0, 4095) of 12
            bits); None: as their type, or their file, says.
        origin: From where all this is known, for people; two recipes that differ in nothing else are equal.

    Raises:
        OptionError: When an option has a value that it does not accept.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] | None = 256
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: str = "center"
    rescale: float = 1 / 255
    offset: str = "round"
    levels: tuple[float, float] | None = None
    origin: str = field(default=ASSUMED, compare=False)

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std", "resize", "levels"):  # a frozen value must hash
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, name, tuple(value))
        check(self)

    @property
    def channels(self) -> int:
        """How many channels the input has."""
        return len(self.mean)

    def __call__(self, image: ReadImage) -> Float[Tensor, "channels rows cols"]:
        """Return the model's input for one image, float32.

        Raises:
            ImageError: The image has other channels, or would become larger than memory.
        """
        pixels = torch.from_numpy(self._levels(image)).permute(2, 0, 1).contiguous() * self.rescale
        values = (pixels - _channel(self.mean, pixels)) / _channel(self.std, pixels)
        if self.crop == "pad":
            (rows, cols), _, (height, width) = self._plan(image)
            values[:, rows:height] = 0
            values[:, :, cols:width] = 0
        return values

    def uniform(self, color: tuple[int, int, int], rows: int, cols: int) -> ReadImage:
        """Return an image of one color with the channels of the model; gray for other numbers than three.

        Raises:
            OptionError: The color is no gray, and the model does not take RGB.
        """
        if self.channels in (1, 3):
            return Image.new("RGB", (cols, rows), color)
        if len(set(color)) > 1:
            raise OptionError(f"the color {color} has no meaning in {self.channels} channels; use a gray, or a tensor")
        return DeepImage(np.full((rows, cols, self.channels), color[0], np.uint8))

    def batch(self, images: Iterable[ReadImage]) -> Float[Tensor, "batch channels rows cols"]:
        """Return the inputs for several images.

        Raises:
            OptionError: When there are no images, or (crop "none") inputs of different sizes.
        """
        inputs = [self(image) for image in images]
        if len({x.shape for x in inputs}) != 1:
            sizes = ", ".join(sorted({f"{x.shape[1]}x{x.shape[2]}" for x in inputs})) or "no images"
            raise OptionError(
                f"a batch needs images of one input size, got {sizes}; "
                "pass them one by one, or fix it with preprocess.with_size(rows, cols)"
            )
        return torch.stack(inputs)

    def with_size(self, rows: int, cols: int) -> Preprocess:
        """Return the same recipe for another input size; the cropped margin keeps its proportion."""
        if self.resize is None and self.crop not in ("none", "pad"):
            return replace(self, size=(rows, cols))
        if self.crop in ("none", "pad"):
            return replace(self, size=(rows, cols), resize=(rows, cols), crop="center")
        margins = self._margins()
        frame = math.floor(rows * margins[0]), math.floor(cols * margins[1])
        keep_short = frame[0] == frame[1] and self.crop == "center"
        return replace(self, size=(rows, cols), resize=frame[0] if keep_short else frame)

    def with_channels(self, channels: int) -> Preprocess:
        """Return the same recipe for another number of channels, with the mean of its means and stds for each."""
        if channels == self.channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        origin = f"{self.origin}; mean and std of {channels} channel{'s' * (channels > 1)}: the mean of those"
        return replace(self, mean=(mean,) * channels, std=(std,) * channels, origin=origin)

    def changed(self, **changes: Any) -> Preprocess:
        """Return the recipe with what a person says differs.

        Args:
            **changes: Attributes; `size` also as one number (the cropped margin keeps its proportion), `mean` and `std`
                as one number for all channels, `crop` also as the share of the resized image that is kept (0.875), and
                None for what stays.

        Raises:
            OptionError: When an attribute is unknown or has a value that it does not accept.
        """
        return changed(self, changes)

    def describe(self) -> str:
        """Return everything that happens to an image, in one line."""
        return described(self)

    def denormalize(self, inputs: Float[Tensor, "... channels rows cols"]) -> Float[Tensor, "... channels rows cols"]:
        """Bring an input back to [0, 1] (clamped)."""
        levels = inputs.float() * _channel(self.std, inputs) + _channel(self.mean, inputs)
        return (levels / (self.rescale * 255)).clamp(0, 1)

    def box(self, image: ReadImage) -> Region:
        """Return the region of `image` that the input covers; it reaches beyond the image where that is padded."""
        (rows, cols), (top, left), (height, width) = self._plan(image)
        x, y = image.width / cols, image.height / rows
        return left * x, top * y, (left + width) * x, (top + height) * y

    def visible_region(self, image: ReadImage, long_side: int = 1024) -> Image.Image:
        """Return what the model saw, in the image's own resolution and proportions.

        Args:
            image: The whole image.
            long_side: The largest number of pixels on its long side.
        """
        image = _as_rgb(image) if isinstance(image, Image.Image) else image.view()
        left, top, right, bottom = self.box(image)
        if left < 0 or top < 0 or right > image.width or bottom > image.height:  # padding: black, as in the input
            x, y = math.floor(left), math.floor(top)
            image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
            left, top, right, bottom = left - x, top - y, right - x, bottom - y
        scale = min(1.0, long_side / max(right - left, bottom - top))
        size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        return image.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON knows them; `from_dict` reads them back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Preprocess:
        """Read what `to_dict` returned.

        Raises:
            OptionError: When an option is unknown or has a value that it does not accept.
        """
        check_option_names("preprocess", options, cls.__dataclass_fields__)
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
        return cls(**values)

    @classmethod
    def from_timm(cls, cfg: Mapping[str, Any]) -> Preprocess:
        """Read a timm model's `pretrained_cfg` (or what `resolve_data_config` returns).

        Raises:
            OptionError: When the crop mode is unknown.
        """
        channels = (cfg.get("input_size") or (3,))[0]
        recipe = cls(**timm_recipe(cfg), origin="timm's configuration of these weights")
        return recipe if recipe.channels == channels else recipe.with_channels(channels)

    @classmethod
    def from_hf(cls, processor: Mapping[str, Any]) -> Preprocess:
        """Read the contents of a transformers `preprocessor_config.json` (or `image_processor.to_dict()`).

        transformers resizes tensors where we resize Pillow images: the levels agree up to rounding.

        Raises:
            OptionError: When it resizes in a way that is not supported.
        """
        return cls(**hf_recipe(processor), origin="preprocessor_config.json")

    # --- geometry ---

    def _plan(self, image: ReadImage) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Return (rows, cols) after the resize, (top, left) and (rows, cols) of the crop within it."""
        rows, cols = self._resized(image.height, image.width)
        if self.crop == "none":
            return (rows, cols), (0, 0), (rows, cols)
        if self.crop == "pad":
            height, width = (side + -side % step for side, step in zip((rows, cols), self.size, strict=True))
            return (rows, cols), (0, 0), (height, width)
        return (rows, cols), (self._offset(rows, self.size[0]), self._offset(cols, self.size[1])), self.size

    def _resized(self, rows: int, cols: int) -> tuple[int, int]:
        if self.resize is None:
            return (rows, cols) if self.crop in ("none", "pad") else self.size
        if self.crop == "squash":
            return self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
        if isinstance(self.resize, tuple) or self.crop == "border":
            frame = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
            fit = max if self.crop == "border" else min
            ratio = fit(rows / frame[0], cols / frame[1])
            return max(1, round(rows / ratio)), max(1, round(cols / ratio))
        long = int(self.resize * max(rows, cols) / min(rows, cols))  # torchvision truncates
        return (self.resize, long) if rows <= cols else (long, self.resize)

    def _offset(self, whole: int, part: int) -> int:
        if part > whole:
            return -((part - whole) // 2)
        return round((whole - part) / 2) if self.offset == "round" else (whole - part) // 2

    def _levels(self, image: ReadImage) -> Float32[ndarray, "rows cols channels"]:
        """Return the levels between 0 and 255 of what the model sees."""
        if isinstance(image, DeepImage):
            bands = np.moveaxis(image.levels(self.channels, self.levels), -1, 0)
            seen = [self._geometry(Image.fromarray(np.ascontiguousarray(band))) for band in bands]
            return self._bordered(image, np.stack([np.asarray(band, dtype=np.float32) for band in seen], -1))
        if self.channels not in (1, 3):
            raise ImageError(
                f"the model takes {self.channels} channels and an RGB image has 3; pass an array (rows, cols, "
                "channels), a .npy file, or a TIFF with a page for each"
            )
        image = _as_rgb(image)
        levels = np.array(self._geometry(image if self.channels == 3 else image.convert("L")), dtype=np.float32)
        return self._bordered(image, levels if self.channels == 3 else levels[..., None])

    def _bordered(
        self, image: ReadImage, levels: Float32[ndarray, "rows cols channels"]
    ) -> Float32[ndarray, "rows cols channels"]:
        """Fill what lies beyond the image with the mean color, rounded to levels as timm does; crop "border" only."""
        if self.crop != "border":
            return levels
        (rows, cols), (top, left), _ = self._plan(image)
        inside = slice(max(0, -top), rows - top), slice(max(0, -left), cols - left)
        color = [round(mean / self.rescale) for mean in self.mean]
        filled = np.broadcast_to(np.array(color, np.float32), levels.shape).copy()
        filled[inside] = levels[inside]
        return filled

    def _geometry(self, image: Image.Image) -> Image.Image:
        (rows, cols), (top, left), (height, width) = self._plan(image)
        if image.size == (cols, rows):
            return image.crop((left, top, left + width, top + height))
        if height * width > MOST:
            raise ImageError(
                f"an image of {image.height}×{image.width} would become an input of {height}×{width}; crop it first"
            )
        kind = FILTERS[self.interpolation]
        if rows * cols > max(LARGE, FAR * height * width):  # make only what is seen
            x, y = image.width / cols, image.height / rows
            inside = max(0, left), max(0, top), min(cols, left + width), min(rows, top + height)
            box = inside[0] * x, inside[1] * y, inside[2] * x, inside[3] * y
            part = image.resize((inside[2] - inside[0], inside[3] - inside[1]), kind, box=box)
            return part.crop((left - inside[0], top - inside[1], left + width - inside[0], top + height - inside[1]))
        return image.resize((cols, rows), kind).crop((left, top, left + width, top + height))

    def _margins(self) -> tuple[float, float]:
        """Return resize / size along rows and cols."""
        if self.resize is None:
            return 1.0, 1.0
        if isinstance(self.resize, tuple):
            return self.resize[0] / self.size[0], self.resize[1] / self.size[1]
        if self.crop == "squash":
            return self.resize / self.size[0], self.resize / self.size[1]
        margin = self.resize / min(self.size)
        return margin, margin


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else load_image(image)


def _channel(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "channels 1 1"]:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(-1, 1, 1)


IMAGENET = Preprocess()
IMAGENET_BICUBIC = replace(IMAGENET, interpolation="bicubic")
CLIP = Preprocess(
    resize=224,
    origin="CLIP's, as this kind of model has it",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
)
