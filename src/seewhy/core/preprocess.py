"""From an image to the model's input, and back to the region of the image that the model saw.

The geometry follows torchvision's `Resize` + `CenterCrop` on Pillow images to the pixel (and with it timm's evaluation
transform): `tests/core/test_preprocess.py` holds both against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seewhy.core.images import load_image
from seewhy.core.options import check_option_names
from seewhy.errors import OptionError

Region = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of an image."""

CROPS = ("center", "squash", "none", "pad")
FILTERS = {filter.name.lower(): filter for filter in Image.Resampling}


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, scale, normalize.

    Attributes:
        size: (rows, cols) of the model's input.
        resize: How large the image becomes before the crop. With crop "center" or "none" an int is its short side,
            and (rows, cols) the frame that it must cover, proportions kept; with "squash" it is stretched to that.
            None: no crop at all, the whole image is stretched to `size` (crop "none" and "pad": it keeps its own size).
        mean: Per channel, on the scale after `rescale`.
        std: Likewise.
        interpolation: A Pillow filter: nearest, box, bilinear, hamming, bicubic, lanczos.
        crop: "center" cuts `size` out of the middle (black where the image is too small), "squash" stretches first,
            "none" leaves the image as resized, so that inputs differ in size, and "pad" fills it up, below and on the
            right, to multiples of `size` (a ViT's patch) with zeros, the mean color.
        rescale: What the 8-bit levels are multiplied by.
        offset: How half a pixel of crop offset is rounded: "round" as torchvision, "floor" as transformers.

    Raises:
        OptionError: When an option has a value that it does not accept.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] | None = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: str = "center"
    rescale: float = 1 / 255
    offset: str = "round"

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std", "resize"):  # a frozen value must hash
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, name, tuple(value))
        _check(self)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 rows cols"]:
        """Return the model's input for one image, float32."""
        levels = np.array(self._geometry(_as_rgb(image)), dtype=np.float32)
        pixels = torch.from_numpy(levels).permute(2, 0, 1).contiguous() * self.rescale
        values = (pixels - _channel(self.mean, pixels)) / _channel(self.std, pixels)
        if self.crop == "pad":
            (rows, cols), _, (height, width) = self._plan(image)
            values[:, rows:height] = 0
            values[:, :, cols:width] = 0
        return values

    def batch(self, images: Iterable[Image.Image]) -> Float[Tensor, "batch 3 rows cols"]:
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

    def denormalize(self, inputs: Float[Tensor, "... 3 rows cols"]) -> Float[Tensor, "... 3 rows cols"]:
        """Bring an input back to [0, 1] (clamped)."""
        levels = inputs.float() * _channel(self.std, inputs) + _channel(self.mean, inputs)
        return (levels / (self.rescale * 255)).clamp(0, 1)

    def box(self, image: Image.Image) -> Region:
        """Return the region of `image` that the input covers; it reaches beyond the image where that is padded."""
        (rows, cols), (top, left), (height, width) = self._plan(image)
        x, y = image.width / cols, image.height / rows
        return left * x, top * y, (left + width) * x, (top + height) * y

    def visible_region(self, image: Image.Image, long_side: int = 1024) -> Image.Image:
        """Return what the model saw, in the image's own resolution and proportions.

        Args:
            image: The whole image.
            long_side: The largest number of pixels on its long side.
        """
        image = _as_rgb(image)
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
            OptionError: When there are not three channels, or the crop mode is timm's padding "border".
        """
        channels, rows, cols = cfg.get("input_size") or (3, 224, 224)
        if channels != 3:
            raise OptionError(f"the model takes {channels} channels, not 3; call the method with your own batch")
        mode = cfg.get("crop_mode") or "center"
        if mode not in ("center", "squash"):
            raise OptionError(f"timm's crop mode {mode!r} is not supported; pass preprocess=Preprocess(...)")
        crop_share = cfg.get("crop_pct") or 0.875
        frame = math.floor(rows / crop_share), math.floor(cols / crop_share)
        return cls(
            size=(rows, cols),
            resize=frame[0] if mode == "center" and frame[0] == frame[1] else frame,
            mean=_triple(cfg.get("mean") or cls.mean),
            std=_triple(cfg.get("std") or cls.std),
            interpolation=cfg.get("interpolation") or "bilinear",
            crop=mode,
        )

    @classmethod
    def from_hf(cls, processor: Mapping[str, Any]) -> Preprocess:
        """Read the contents of a transformers `preprocessor_config.json` (or `image_processor.to_dict()`).

        transformers resizes tensors where we resize Pillow images: the levels agree up to rounding.

        Raises:
            OptionError: When it resizes in a way that is not supported.
        """
        return cls(**_hf_geometry(processor), **_hf_values(processor))

    # --- geometry ---

    def _plan(self, image: Image.Image) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
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
        if isinstance(self.resize, tuple):
            ratio = min(rows / self.resize[0], cols / self.resize[1])
            return round(rows / ratio), round(cols / ratio)
        long = int(self.resize * max(rows, cols) / min(rows, cols))  # torchvision truncates
        return (self.resize, long) if rows <= cols else (long, self.resize)

    def _offset(self, whole: int, part: int) -> int:
        if part > whole:
            return -((part - whole) // 2)
        return round((whole - part) / 2) if self.offset == "round" else (whole - part) // 2

    def _geometry(self, image: Image.Image) -> Image.Image:
        (rows, cols), (top, left), (height, width) = self._plan(image)
        if image.size != (cols, rows):
            image = image.resize((cols, rows), FILTERS[self.interpolation])
        return image.crop((left, top, left + width, top + height))

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


def _check(p: Preprocess) -> None:
    if len(p.size) != 2 or min(p.size) < 1:
        raise OptionError(f"preprocess size {p.size} is not accepted; pass (rows, cols) of at least 1")
    frame = (p.resize,) if isinstance(p.resize, int) else p.resize
    if frame is not None and (len(frame) not in (1, 2) or min(frame) < 1):
        raise OptionError(f"preprocess resize {p.resize} is not accepted; pass the short side, (rows, cols) or None")
    if p.interpolation not in FILTERS:
        raise OptionError(f"unknown interpolation {p.interpolation!r}; choose from {', '.join(FILTERS)}")
    if p.crop not in CROPS:
        raise OptionError(f"unknown crop {p.crop!r}; choose from {', '.join(CROPS)}")
    if p.offset not in ("round", "floor"):
        raise OptionError(f"unknown crop offset {p.offset!r}; choose from round, floor")
    if len(p.mean) != 3 or len(p.std) != 3 or min(p.std) <= 0 or p.rescale <= 0:
        raise OptionError("preprocess needs three means, three positive stds and a positive rescale; check them")


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else load_image(image)


def _channel(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(-1, 1, 1)


# --- transformers' processor configurations --------------------------------------------------------------------------


def _hf_values(cfg: Mapping[str, Any]) -> dict[str, Any]:
    normalize, rescale = cfg.get("do_normalize", True), cfg.get("do_rescale", True)
    return {
        "mean": _triple(cfg.get("image_mean") or 0.5) if normalize else (0.0, 0.0, 0.0),
        "std": _triple(cfg.get("image_std") or 0.5) if normalize else (1.0, 1.0, 1.0),
        "rescale": (cfg.get("rescale_factor") or 1 / 255) if rescale else 1.0,
        "interpolation": Image.Resampling(int(cfg.get("resample", 2))).name.lower(),
        "offset": "floor",
    }


def _hf_geometry(cfg: Mapping[str, Any]) -> dict[str, Any]:
    size, crop = _hf_size(cfg), _hf_crop(cfg)
    if not cfg.get("do_resize", True):
        if crop:
            raise OptionError("a processor that crops but does not resize is not supported; pass your own preprocess=")
        return {"size": size if isinstance(size, tuple) else (size, size), "resize": None, "crop": "none"}
    if cfg.get("crop_pct") is not None:  # ConvNeXT's and ResNet's processor: its own margin, none from 384 on
        side = size if isinstance(size, int) else min(size)
        resize = int(side / cfg["crop_pct"]) if side < 384 else None
        return {"size": (side, side), "resize": resize, "crop": "center" if resize else "squash"}
    if isinstance(size, int):
        return {"size": crop or (size, size), "resize": size, "crop": "center" if crop else "none"}
    return {"size": crop or size, "resize": size if crop else None, "crop": "squash"}


def _hf_size(cfg: Mapping[str, Any]) -> int | tuple[int, int]:
    """Return the short side, or (rows, cols) to stretch to."""
    size = cfg.get("size") or 224
    if isinstance(size, int):  # old files: a bare number is the short side only where a crop follows
        return size if cfg.get("do_center_crop") else (size, size)
    if isinstance(size, list | tuple) and len(size) == 2:
        return size[0], size[1]
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if isinstance(size, Mapping) and size.get("shortest_edge") and not size.get("longest_edge"):
        return size["shortest_edge"]
    raise OptionError(f"a processor of size {size} is not supported; pass preprocess=Preprocess(...)")


def _hf_crop(cfg: Mapping[str, Any]) -> tuple[int, int] | None:
    crop = cfg.get("crop_size")
    if not cfg.get("do_center_crop", False):
        return None
    if isinstance(crop, Mapping):
        return crop["height"], crop["width"]
    side = crop or _hf_size(cfg)
    return side if isinstance(side, tuple) else (side, side)


def _triple(values: float | Iterable[float]) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        return values, values, values
    triple = tuple(values)
    if len(triple) != 3:
        raise OptionError(f"preprocessing needs one value per channel, got {triple}; pass three")
    return triple[0], triple[1], triple[2]


IMAGENET = Preprocess()
IMAGENET_BICUBIC = replace(IMAGENET, interpolation="bicubic")
CLIP = Preprocess(
    resize=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
)
