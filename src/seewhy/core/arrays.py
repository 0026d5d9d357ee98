"""Arrays and tensors as images."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from seewhy.core.deep import DeepImage
from seewhy.errors import ImageError

OWN_SCALE = 3
"""How many channels an image has that needs no more than 8-bit RGB."""


def channels_last(tensor: Tensor, channels: int | None) -> np.ndarray:
    """Return a tensor (channels, rows, cols) as an array with its channels last.

    Raises:
        ImageError: It is no image.
    """
    if tensor.ndim == 4:
        raise ImageError(f"a tensor of shape {tuple(tensor.shape)} is a batch; pass one image, or use load_images")
    if tensor.ndim not in (2, 3):
        raise ImageError(f"a tensor of shape {tuple(tensor.shape)} is not an image; pass (channels, rows, cols)")
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4, channels) and channels is not None:
        hint = (
            "; it looks channels-last: pass tensor.permute(2, 0, 1)" if tensor.shape[2] in (1, 3, 4, channels) else ""
        )
        raise ImageError(
            f"a tensor of shape {tuple(tensor.shape)} has {tensor.shape[0]} channels, not {_wanted(channels)}"
            f"{hint or '; pass (channels, rows, cols)'}"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_complex() or tensor.is_quantized:
        raise ImageError(f"a tensor of dtype {tensor.dtype} is not an image; pass uint8, or floats in [0, 1]")
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def channels_of_file(array: np.ndarray, channels: int | None) -> np.ndarray:
    """Return an array out of a file with its channels last: there nothing says where they are."""
    known = {1, 3, 4} if channels is None else {1, 3, 4, channels}
    is_first = array.ndim == 3 and array.shape[0] in known and array.shape[2] not in known
    return array.transpose(1, 2, 0) if is_first else array


def from_array(
    array: np.ndarray, max_pixels: int, channels: int | None, name: str = "the image"
) -> Image.Image | DeepImage:
    """Return an array as an image: 8-bit RGB if that holds it.

    Raises:
        ImageError: It is no image, or too large.
    """
    _check_shape(array, channels)
    check_size(array.shape[1], array.shape[0], "the array" if name == "the image" else name, max_pixels)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.float16 or array.dtype == np.float64:
        array = array.astype(np.float32)
    values = array[..., None] if array.ndim == 2 else array
    if array.dtype == np.uint8 and (values.shape[2] in (1, 3) or _is_rgba(values, channels)):
        levels = np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values)
        image = Image.fromarray(levels)
        return on_white(image) if image.mode == "RGBA" else image.convert("RGB")
    deep = DeepImage(np.ascontiguousarray(values), name=name)
    return _deep_on_white(deep) if _is_rgba(values, channels) else deep


def _is_rgba(values: np.ndarray, channels: int | None) -> bool:
    return values.shape[2] == 4 and channels in (1, OWN_SCALE)


def _deep_on_white(image: DeepImage) -> DeepImage:
    """Composite RGBA with more than 8 bits on white."""
    black, white = image.range
    shares = (image.values.astype(np.float32) - black) / (white - black)
    rgb, alpha = shares[..., :3], shares[..., 3:]
    return DeepImage(rgb * alpha + (1 - alpha), 0.0, 1.0, image.name)


def _check_shape(array: np.ndarray, channels: int | None) -> None:
    shape = array.shape
    if array.size == 0:
        raise ImageError(f"an array of shape {shape} has no pixels; pass an image")
    if array.ndim == 4:
        raise ImageError(f"an array of shape {shape} is a batch; pass one image, or use load_images")
    if array.ndim not in (2, 3):
        raise ImageError(f"an array of shape {shape} is not an image; pass (rows, cols) or (rows, cols, channels)")
    if array.dtype.kind not in "biuf":
        raise ImageError(f"an array of dtype {array.dtype} is not an image; pass uint8, or floats in [0, 1]")
    if array.ndim == 3 and channels is not None and shape[2] not in (1, 3, 4, channels):
        first = shape[0] in (1, 3, 4, channels)
        hint = "it looks channels-first: pass array.transpose(1, 2, 0)" if first else "pass gray or RGB(A)"
        raise ImageError(f"an array of shape {shape} has {shape[2]} channels, not {_wanted(channels)}; {hint}")


def _wanted(channels: int | None) -> str:
    return "1, 3 or 4" if channels in (None, 1, 3, 4) else str(channels)


def on_white(image: Image.Image) -> Image.Image:
    """Composite an image with transparency on white."""
    if image.mode in {"La", "RGBa"}:  # premultiplied
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def check_size(cols: int, rows: int, name: str, max_pixels: int) -> None:
    """Refuse what has no pixels, or too many.

    Raises:
        ImageError: It has.
    """
    if rows < 1 or cols < 1:
        raise ImageError(f"{name} has no pixels ({cols}x{rows}); pass an image")
    if rows * cols > max_pixels:
        raise ImageError(
            f"{name} has {rows * cols:,} pixels, more than the limit of {max_pixels:,}; "
            "raise the limit with max_pixels=… / --max-pixels"
        )
