"""Images in, RGB out: every kind of source becomes one 8-bit RGB `PIL.Image`, or a one-line error.

Nothing here changes Pillow's process-wide settings.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from seewhy.core.io import first_line
from seewhy.errors import ImageError

ImageLike = str | Path | Image.Image | np.ndarray | Tensor

MAX_PIXELS = 100_000_000
# Image formats only: Pillow's own table also claims .pdf, .h5, .mpg and other files that lie about in folders.
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"]
)
ORIENTATION_TAG = 0x0112
TRANSPARENT_MODES = {"LA", "PA", "RGBA", "La", "RGBa"}
# float images that went through a resize or a color transform overshoot by rounding; more than this is not an image
FLOAT_SLACK = 1e-4
PREPROCESSED = "looks like an already preprocessed tensor; call the method directly: seewhy.methods.X(model)(batch)"


def load_image(image: ImageLike, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> Image.Image:
    """Load one image as 8-bit RGB, upright.

    EXIF orientation is applied unless `upright` is False. Transparency is composited on white, as browsers show it.
    16-bit gray is scaled by 1/257, never clipped. Pillow's 32-bit float mode counts as [0, 1] when no value is above 1,
    as [0, 255] otherwise. Of animations and multi-page files the first frame is taken. Color profiles are not applied.

    Args:
        image: A file, a Pillow image, an array (rows, cols) or (rows, cols, 1|3|4), or a tensor (1|3|4, rows, cols)
            or (rows, cols). Values are uint8, uint16, bool, other integers in [0, 255], or floats in [0, 1].
        max_pixels: Larger files are refused before they are decoded (rows x cols).
        upright: Whether to turn the image as its EXIF orientation says; annotations of datasets are about the pixels as
            stored.

    Raises:
        ImageError: When it is missing, broken, too large, or not an image.
    """
    if isinstance(image, str | Path):
        return _read(image, max_pixels, upright)
    if isinstance(image, Image.Image):
        return _finish(image, _name(image), max_pixels, upright)
    if isinstance(image, Tensor):
        return _from_array(_channels_last(image), max_pixels)
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels)
    raise ImageError(f"a {type(image).__name__} is not an image; pass a path, a PIL image, an array or a tensor")


def load_images(images: ImageLike | Iterable[ImageLike], *, max_pixels: int = MAX_PIXELS) -> list[Image.Image]:
    """Load one or several images.

    Args:
        images: One image, a list, a batch (B, rows, cols, C) array or (B, C, rows, cols) tensor, or a folder
            (recursively).
        max_pixels: As in `load_image`.

    Raises:
        ImageError: When one of them cannot be read, or there are none.
    """
    return [load_image(image, max_pixels=max_pixels) for image in _as_list(images)]


def image_paths(folder: str | Path) -> list[Path]:
    """List the image files below a folder, sorted by path; hidden files and folders are left out.

    Raises:
        ImageError: When it is not a folder, or has no image files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder; pass a folder of images")
    candidates = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = sorted(path for path in candidates if path.is_file() and not _hidden(path, folder))
    if not paths:
        raise ImageError(f"no images in {folder}; it needs files such as .jpg, .png or .webp")
    return paths


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _as_list(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    if isinstance(images, str | Path):
        return list(image_paths(images)) if Path(images).is_dir() else [images]
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor) and images.ndim != 4:
        return [images]
    if not isinstance(images, Iterable):
        raise ImageError(f"a {type(images).__name__} is not an image; pass a path, an image or a list of them")
    several: list[ImageLike] = list(images)
    if not several:
        raise ImageError("there are no images; pass at least one")
    return several


# --- files -----------------------------------------------------------------------------------------------------------


def _read(path: str | Path, max_pixels: int, upright: bool) -> Image.Image:
    if str(path).startswith(("http://", "https://")):
        raise ImageError(f"{path} is an address, not a file; download it first and pass the file")
    path = Path(path).expanduser()
    if path.is_dir():
        raise ImageError(f"{path} is a folder; pass its images: seewhy.image_paths({str(path)!r})")
    if not path.exists():
        raise ImageError(f"{path} does not exist; check the path")
    with _bomb_guard(str(path)), _open(path) as image:
        return _finish(image, str(path), max_pixels, upright)


@contextmanager
def _bomb_guard(name: str) -> Iterator[None]:
    """Let our own limit decide; Pillow's refusal of what is larger still becomes an ImageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            yield
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"{name} is larger than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels that Pillow opens; shrink it, "
                "or raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels=… / --max-pixels"
            ) from error


def _open(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes); get the file again")
        return Image.open(path)
    except (ImageError, Image.DecompressionBombError):
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that Pillow knows; convert it to PNG or JPEG") from None
    except PermissionError:
        raise ImageError(f"{path} cannot be read; check its permissions") from None
    except Exception as error:  # format plugins raise anything on broken headers
        raise ImageError(f"{path} cannot be opened ({first_line(error)}); get the file again") from error


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "")) or "the image"


def _check_size(cols: int, rows: int, name: str, max_pixels: int) -> None:
    if rows < 1 or cols < 1:
        raise ImageError(f"{name} has no pixels ({cols}x{rows}); pass an image")
    if rows * cols > max_pixels:
        raise ImageError(
            f"{name} has {rows * cols:,} pixels, more than the limit of {max_pixels:,}; "
            "raise the limit with max_pixels=… / --max-pixels"
        )


# --- modes -----------------------------------------------------------------------------------------------------------


def _finish(image: Image.Image, name: str, max_pixels: int, upright: bool) -> Image.Image:
    """Check the size on the header, then decode, turn upright and convert to RGB."""
    _check_size(*image.size, name, max_pixels)
    try:
        image.load()
        return _upright(image, _rgb(image), upright)
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything on broken bytes: OSError, SyntaxError, zlib.error …
        raise ImageError(f"{name} is truncated or broken ({first_line(error)}); get the file again") from error


def _upright(source: Image.Image, rgb: Image.Image, turn: bool) -> Image.Image:
    """Apply the EXIF orientation of `source` to `rgb`, whose metadata are dropped so that it is never applied twice."""
    try:
        orientation = source.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # an image with broken metadata is still an image
        orientation = 1
    rgb = rgb.copy() if rgb is source else rgb
    rgb.info = {}
    if not turn:
        return rgb
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation if orientation in range(1, 9) else 1
    rgb.info["exif"] = exif.tobytes()
    turned = ImageOps.exif_transpose(rgb)
    turned.info = {}
    return turned


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_array(_gray_levels(image), max_pixels=image.width * image.height)
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in {"La", "RGBa"}:  # premultiplied
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _gray_levels(image: Image.Image) -> np.ndarray:
    """Return modes I;16*, I and F as an array that `_from_array` scales the right way."""
    levels = np.asarray(image)
    if image.mode == "F":
        return levels if np.nanmax(levels) <= 1 else levels / 255
    # a 16-bit PNG or PGM reaches mode I in older Pillows; there even a dark image is on the 16-bit scale
    sixteen = image.mode != "I" or image.format in {"PNG", "PPM"} or levels.max() > 255
    if sixteen and levels.min() >= 0 and levels.max() <= 65535:
        return levels.astype(np.uint16)
    return levels


# --- arrays ----------------------------------------------------------------------------------------------------------


def _channels_last(tensor: Tensor) -> np.ndarray:
    if tensor.ndim == 4:
        raise ImageError(f"a tensor of shape {tuple(tensor.shape)} is a batch; pass one image, or use load_images")
    if tensor.ndim not in (2, 3):
        raise ImageError(f"a tensor of shape {tuple(tensor.shape)} is not an image; pass (channels, rows, cols)")
    if tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4):
        hint = "; it looks channels-last: pass tensor.permute(2, 0, 1)" if tensor.shape[2] in (1, 3, 4) else ""
        raise ImageError(
            f"a tensor of shape {tuple(tensor.shape)} has {tensor.shape[0]} channels, not 1, 3 or 4"
            f"{hint or '; pass (channels, rows, cols)'}"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_complex() or tensor.is_quantized:
        raise ImageError(f"a tensor of dtype {tensor.dtype} is not an image; pass uint8, or floats in [0, 1]")
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    _check_shape(array)
    _check_size(array.shape[1], array.shape[0], "the array", max_pixels)
    levels = np.ascontiguousarray(_to_uint8(array))
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[..., 0]
    image = Image.fromarray(levels)
    return _on_white(image) if image.mode == "RGBA" else image.convert("RGB")


def _check_shape(array: np.ndarray) -> None:
    shape = array.shape
    if array.size == 0:
        raise ImageError(f"an array of shape {shape} has no pixels; pass an image")
    if array.ndim == 4:
        raise ImageError(f"an array of shape {shape} is a batch; pass one image, or use load_images")
    if array.ndim not in (2, 3):
        raise ImageError(f"an array of shape {shape} is not an image; pass (rows, cols) or (rows, cols, channels)")
    if array.ndim == 3 and shape[2] not in (1, 3, 4):
        first = shape[0] in (1, 3, 4)
        hint = "it looks channels-first: pass array.transpose(1, 2, 0)" if first else "pass gray or RGB(A)"
        raise ImageError(f"an array of shape {shape} has {shape[2]} channels, not 1, 3 or 4; {hint}")


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.rint(array / 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        return _integers(array)
    if np.issubdtype(array.dtype, np.floating):
        return _floats(array)
    raise ImageError(f"an array of dtype {array.dtype} is not an image; pass uint8, or floats in [0, 1]")


def _integers(array: np.ndarray) -> np.ndarray:
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 255:
        raise ImageError(
            f"the image's {array.dtype} values run from {low} to {high}; pass uint8 in [0, 255], "
            "or uint16 for 16-bit images"
        )
    return array.astype(np.uint8)


def _floats(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise ImageError("the image holds NaN or infinity; repair it first, e.g. with numpy.nan_to_num")
    low, high = float(array.min()), float(array.max())
    if low < -FLOAT_SLACK:
        raise ImageError(f"the image's values run from {low:.3g} to {high:.3g}, not [0, 1]; {PREPROCESSED}")
    if high > 1 + FLOAT_SLACK:
        hint = "divide by 255" if high <= 255 else "scale it to [0, 1]"
        raise ImageError(f"the image's values run from {low:.3g} to {high:.3g}, not [0, 1]; {hint}")
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
