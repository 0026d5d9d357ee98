"""Images in: every kind of source becomes an upright 8-bit RGB image, or keeps all its levels and channels.

Nothing here changes Pillow's process-wide settings.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from seewhy.core.arrays import OWN_SCALE
from seewhy.core.decoding import (
    MAX_PIXELS as MAX_PIXELS,
    ImageLike as ImageLike,
    ReadImage as ReadImage,
    image_formats as image_formats,
    opened as opened,
)
from seewhy.core.deep import DeepImage
from seewhy.core.files import DICOM_SUFFIXES
from seewhy.errors import ImageError

# Image formats only: Pillow's own table also claims .pdf, .h5, .mpg and other files that lie about in folders.
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"]
) | set(DICOM_SUFFIXES)


def load_image(image: ImageLike, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> Image.Image:
    """Load one image as 8-bit RGB, upright.

    EXIF orientation is applied unless `upright` is False. Transparency is composited on white, as browsers show it.
    16-bit gray is scaled by 1/257, never clipped. Pillow's 32-bit float mode counts as [0, 1] when no value is above 1,
    as [0, 255] otherwise. Of animations and multi-page files the first frame is taken. Color profiles are not applied.

    Args:
        image: A file, a Pillow image, an array (rows, cols) or (rows, cols, 1|3|4), or a tensor (1|3|4, rows, cols)
            or (rows, cols). Values are uint8, uint16, bool, other integers in [0, 255], or floats in [0, 1]. Of files,
            also DICOM and `.npy`.
        max_pixels: Larger files are refused before they are decoded (rows x cols).
        upright: Whether to turn the image as its EXIF orientation says; annotations of datasets are about the pixels as
            stored.

    Raises:
        ImageError: When it is missing, broken, too large, or not an image.
    """
    read = read_image(image, max_pixels=max_pixels, upright=upright)
    return read.rgb() if isinstance(read, DeepImage) else read


def read_image(
    image: ImageLike, *, channels: int | None = OWN_SCALE, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> ReadImage:
    """Read one image as `load_image` does, but keep what 8-bit RGB cannot hold: a `DeepImage` then.

    Args:
        image: As in `load_image`; also with any number of channels.
        channels: How many channels the model takes; None: any. Other numbers than 1 and 3 are read from the pages of a
            TIFF, and from RGBA without compositing.
        max_pixels: As in `load_image`.
        upright: As in `load_image`.

    Raises:
        ImageError: As `load_image`.
    """
    return opened(image, channels=channels, max_pixels=max_pixels, upright=upright)()


def load_images(images: ImageLike | Iterable[ImageLike], *, max_pixels: int = MAX_PIXELS) -> list[Image.Image]:
    """Load one or several images.

    Args:
        images: One image, a list, a batch (B, rows, cols, C) array or (B, C, rows, cols) tensor, or a folder
            (recursively).
        max_pixels: As in `load_image`.

    Raises:
        ImageError: When one of them cannot be read, or there are none.
    """
    return [load_image(image, max_pixels=max_pixels) for image in as_list(images)]


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


def matching(pattern: str | Path) -> list[Path]:
    """Return the image files that match a shell pattern (`scans/**/*.png`), sorted; none if it is the name of a file.

    Raises:
        ImageError: Nothing matches.
    """
    if not glob.has_magic(str(pattern)) or _exists(pattern):
        return []
    paths = sorted(Path(found) for found in glob.glob(str(pattern), recursive=True))
    files = [path for path in paths if path.is_file() and path.suffix.lower() in (*SUFFIXES, ".npy")]
    if not files:
        raise ImageError(f"no images match {pattern}; check the pattern")
    return files


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name that is too long
        return False


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def as_list(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Return one or several images, or those of a folder, as a list.

    Raises:
        ImageError: There are none.
    """
    if isinstance(images, str | Path):
        found: list[ImageLike] = [*(image_paths(images) if Path(images).is_dir() else matching(images))]
        return found or [images]
    if isinstance(images, Image.Image | DeepImage):
        return [images]
    if isinstance(images, np.ndarray | Tensor) and images.ndim != 4:
        return [images]
    if not isinstance(images, Iterable):
        raise ImageError(f"a {type(images).__name__} is not an image; pass a path, an image or a list of them")
    several: list[ImageLike] = list(images)
    if not several:
        raise ImageError("there are no images; pass at least one")
    return several


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a PNG fast: a sixth larger than the smallest, in a quarter of the time; the pixels are exact."""
    image.save(path, format="PNG", compress_level=1)
