"""Decode one image, from whatever it comes, without cutting off levels or channels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from seewhy.core.arrays import OWN_SCALE, channels_last, channels_of_file, check_size, from_array, on_white
from seewhy.core.deep import DeepImage
from seewhy.core.deep_colors import deep_reader
from seewhy.core.files import is_dicom, read_array, read_dicom
from seewhy.core.io import first_line
from seewhy.core.png import check_rows
from seewhy.errors import ImageError

ImageLike = str | Path | Image.Image | np.ndarray | Tensor | DeepImage
ReadImage = Image.Image | DeepImage
"""An image that has been read: 8-bit RGB, or one with more levels or other channels."""

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What Pillow may take a file for, whatever its name: of its other plugins one runs Ghostscript."""

ORIENTATION_TAG, PHOTOMETRIC_TAG, SAMPLE_FORMAT_TAG = 0x0112, 262, 339
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each EXIF orientation upright."""

BACK = {**TURNS, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
ARRAY_TURNS: dict[Image.Transpose, Callable[[np.ndarray], np.ndarray]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda values: values[:, ::-1],
    Image.Transpose.ROTATE_180: lambda values: values[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda values: values[::-1],
    Image.Transpose.TRANSPOSE: lambda values: values.swapaxes(0, 1),
    Image.Transpose.ROTATE_270: lambda values: np.rot90(values, -1),
    Image.Transpose.TRANSVERSE: lambda values: np.rot90(values, 2).swapaxes(0, 1),
    Image.Transpose.ROTATE_90: lambda values: np.rot90(values, 1),
}
TRANSPARENT_MODES = {"LA", "PA", "RGBA", "La", "RGBa"}


def opened(
    image: ImageLike, *, channels: int | None = OWN_SCALE, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Callable[[], ReadImage]:
    """Check an image's size and format, and return what decodes it: that may be called in another thread.

    Args:
        image: As in `read_image`.
        channels: As in `read_image`.
        max_pixels: As in `read_image`.
        upright: As in `read_image`.

    Raises:
        ImageError: As `read_image`, as far as the file's header tells.
    """
    if isinstance(image, str | Path):
        return _opened_file(image, channels, max_pixels, upright)
    if isinstance(image, DeepImage):
        return lambda: image
    if isinstance(image, Image.Image):
        name = _name(image)
        check_size(*image.size, name, max_pixels)
        path = _name(image)
        again = (lambda: _open(Path(path))) if Path(path).is_file() else None
        return lambda: _decoded(image, name, channels, upright, again)
    if isinstance(image, Tensor):
        return lambda: from_array(channels_last(image, channels), max_pixels, channels)
    if isinstance(image, np.ndarray):
        return lambda: from_array(image, max_pixels, channels)
    raise ImageError(f"a {type(image).__name__} is not an image; pass a path, a PIL image, an array or a tensor")


# --- files -----------------------------------------------------------------------------------------------------------


def _opened_file(path: str | Path, channels: int | None, max_pixels: int, upright: bool) -> Callable[[], ReadImage]:
    path = _checked_path(path)
    name = str(path)
    if path.suffix.lower() == ".npy":
        return lambda: from_array(channels_of_file(read_array(path), channels), max_pixels, channels, name)
    if is_dicom(path):
        return lambda: read_dicom(path, max_pixels)
    with _bomb_guard(name):
        image = _open(path)
        try:
            check_size(*image.size, name, max_pixels)
        except ImageError:
            image.close()
            raise

    def decode() -> ReadImage:
        with image:
            return _decoded(image, name, channels, upright, lambda: _open(path))

    return decode


def _checked_path(path: str | Path) -> Path:
    if str(path).startswith(("http://", "https://")):
        raise ImageError(f"{path} is an address, not a file; download it first and pass the file")
    path = Path(path)
    try:
        if str(path).startswith("~") and not path.exists():
            path = path.expanduser()
        if path.is_dir():
            raise ImageError(f"{path} is a folder; pass its images: seewhy.image_paths({str(path)!r})")
        if not path.exists():
            raise ImageError(f"{path} does not exist; check the path")
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a null byte
        reason = getattr(error, "strerror", None) or first_line(error, limit=80)
        raise ImageError(f"{str(path)[:80]} cannot be read ({reason}); check the path") from None
    return path


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


@lru_cache(maxsize=1)
def image_formats() -> tuple[str, ...]:
    """Return the names of `FORMATS` that this Pillow has, for `Image.open(formats=…)`."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes); get the file again")
        image = Image.open(path, formats=image_formats())
        if image.format == "TIFF":
            image.filename = ""  # else Pillow maps the file, and takes rows for columns where it lies on its side
        return image
    except (ImageError, Image.DecompressionBombError):
        raise
    except UnidentifiedImageError:
        kinds = "JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, AVIF, JPEG 2000, DICOM or .npy"
        raise ImageError(f"{path} is not an image that seewhy reads ({kinds}); convert it to PNG or JPEG") from None
    except PermissionError:
        raise ImageError(f"{path} cannot be read; check its permissions") from None
    except Exception as error:  # format plugins raise anything on broken headers
        raise ImageError(f"{path} cannot be opened ({first_line(error)}); get the file again") from error


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "")) or "the image"


# --- modes -----------------------------------------------------------------------------------------------------------


def _decoded(
    image: Image.Image,
    name: str,
    channels: int | None,
    upright: bool,
    reopen: Callable[[], Image.Image] | None,
) -> ReadImage:
    """Decode, turn upright and convert; `reopen` opens the same file once more."""
    try:
        single = reopen is not None and getattr(image, "n_frames", 1) == 1
        deep = deep_reader(image, reopen) if single and reopen else None  # before a PNG is decoded for its EXIF
        stored = orientation(image)  # Pillow forgets it in a TIFF, which it turns by itself
        if deep is not None:
            values = deep()
            check_rows(image, name)
            turn = _turn(stored, image.format == "TIFF" and stored != orientation(image), upright)
            return _upright(from_array(values, values.size, channels, name), turn)
        image.load()
        check_rows(image, name)
        turned_already = image.format == "TIFF" and stored != orientation(image)
        turn = _turn(stored, turned_already, upright)
        return _upright(_converted(image, name, channels), turn)
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything on broken bytes: OSError, SyntaxError, zlib.error …
        raise ImageError(f"{name} is truncated or broken ({first_line(error)}); get the file again") from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where there is none, or none that is one."""
    try:
        value = int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # an image with broken metadata is still an image
        return 1
    return value if value in range(1, 9) else 1


def _turn(stored: int, turned_already: bool, upright: bool) -> Image.Transpose | None:
    if turned_already:
        return None if upright else BACK.get(stored)
    return TURNS.get(stored) if upright else None


def _upright(read: ReadImage, turn: Image.Transpose | None) -> ReadImage:
    """Turn the image; its metadata are dropped so that it is never turned twice."""
    if isinstance(read, DeepImage):
        if turn is None:
            return read
        values = np.ascontiguousarray(ARRAY_TURNS[turn](read.values))
        return DeepImage(values, read.black, read.white, read.name)
    turned = read.copy() if turn is None else read.transpose(turn)
    turned.info = {}
    return turned


def _converted(image: Image.Image, name: str, channels: int | None) -> ReadImage:
    pages = getattr(image, "n_frames", 1)
    if channels not in (None, 1, OWN_SCALE) and image.format == "TIFF" and pages == channels:
        return DeepImage(_pages(image, pages), name=name)
    if image.mode.startswith("I") or image.mode == "F" or _is_signed(image):
        return _gray(image, name)
    if channels == 4 and image.mode == "RGBA":
        return DeepImage(np.array(image), name=name)
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        return on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _pages(image: Image.Image, pages: int) -> np.ndarray:
    """Return each page of a TIFF as a channel."""
    bands = []
    for page in range(pages):
        image.seek(page)
        bands.append(np.array(image))
        if bands[-1].ndim != 2 or bands[-1].shape != bands[0].shape:
            raise ImageError(f"page {page} is no gray image of the size of the first; save the channels as .npy")
    return np.stack(bands, -1)


def _is_signed(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", None)
    return image.mode == "L" and tags is not None and tags.get(SAMPLE_FORMAT_TAG) in (2, (2,))


def _gray(image: Image.Image, name: str) -> DeepImage:
    """Return modes I;16*, I and F, and signed bytes, with what their values mean."""
    values = np.array(image)
    if _is_signed(image):
        return DeepImage(values.view(np.int8)[..., None], name=name)
    black, white = 0.0, None
    if image.mode == "F":
        high = float(np.nanmax(values))
        white = 1.0 if high <= 1 else 255.0 if high <= 255 else None
    # a 16-bit PNG or PGM reaches mode I in older Pillows; there even a dark image is on the 16-bit scale
    elif (
        values.min() >= 0
        and values.max() <= 65535
        and (image.mode != "I" or image.format in {"PNG", "PPM"} or values.max() > 255)
    ):
        values = values.astype(np.uint16)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        values = np.where(values == transparent, np.array(65535).astype(values.dtype), values)
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC_TAG) == 0:  # white is zero
        whole = DeepImage(values[..., None], black, white, name).range[1]
        black, white = whole, 0.0
    return DeepImage(values[..., None], black, white, name)
