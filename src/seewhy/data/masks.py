"""Mask files to arrays."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from numpy import ndarray
from PIL import Image

from seewhy.core.images import image_formats
from seewhy.errors import DataError


def read_levels(source: str | Path | bytes | Image.Image, name: str = "") -> Integer[ndarray, "rows cols"]:
    """Read the whole numbers that a mask file stores: gray levels, or indices where it has a palette.

    Color images are accepted where all channels agree; transparency is left out.

    Args:
        source: A file, its bytes, or an image.
        name: What messages call it.

    Raises:
        DataError: When the file is missing or broken, is colored, or holds fractions.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the mask")
    levels, mode = _stored(source, name)
    if levels.ndim == 3:
        colors = levels[..., : 1 if mode in ("LA", "La", "PA") else 3]
        if (colors != colors[..., :1]).any():
            raise DataError(f"the mask {name} is colored; store the numbers of its objects as gray levels")
        levels = colors[..., 0]
    if levels.dtype.kind == "f":
        raise DataError(f"the mask {name} holds fractions; store the numbers of its objects as gray levels")
    return levels.astype(np.int64)


def read_numbers(path: Path, modes: tuple[str, ...], hint: str) -> UInt8[ndarray, "rows cols *channels"]:
    """Read the values of an official annotation PNG; an image with a palette gives its indices.

    Args:
        path: The file.
        modes: Pillow's modes that it may have.
        hint: What to do about another mode.

    Raises:
        DataError: When it is missing, broken or of another mode.
    """
    levels, mode = _stored(path, str(path))
    if mode not in modes:
        raise DataError(f"the mask {path} has mode {mode}, not {' or '.join(modes)}; {hint}")
    return levels


def _stored(source: str | Path | bytes | Image.Image, name: str) -> tuple[ndarray, str]:
    """Return the values as they are stored, and Pillow's mode."""
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise DataError(f"the mask {name} does not exist; unpack the annotations again")
    try:
        if isinstance(source, Image.Image):
            return np.array(source), source.mode
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=image_formats()) as image:
            return np.array(image), image.mode
    except Exception as error:  # decoders raise anything on broken bytes
        raise DataError(f"the mask {name} cannot be read ({type(error).__name__}); get the file again") from error
