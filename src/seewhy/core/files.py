"""Files of numbers that are images: DICOM and `.npy`. Nothing in them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seewhy.core.deep import DeepImage
from seewhy.core.io import first_line
from seewhy.errors import ImageError, require

DICOM_SUFFIXES = (".dcm", ".dicom")


def read_array(path: Path) -> np.ndarray:
    """Return the array of a `.npy` file.

    Raises:
        ImageError: It is none, is broken, or holds Python objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy has several ways to say that it is none
        raise ImageError(f"{path} is no .npy array of numbers ({first_line(error)}); save it with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise ImageError(f"{path} holds several arrays; save one image with numpy.save")
    return array


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM: by its suffix, or by the mark behind its preamble."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path, max_pixels: int) -> DeepImage:
    """Read a DICOM image: values after its rescale (Hounsfield units of a CT), shown as its first window says.

    Without a window, black and white are the least and the greatest value. MONOCHROME1 is shown inverted. Of several
    frames the first is taken.

    Raises:
        ImageError: It has no pixels, is too large, or in a compression that pydicom needs another package for.
        MissingExtraError: pydicom is not installed.
    """
    pydicom: Any = require("pydicom", "lidc")
    try:
        data = pydicom.dcmread(path)
        rows, cols = int(data.Rows), int(data.Columns)
        if rows * cols > max_pixels:
            raise ImageError(
                f"{path} has {rows * cols:,} pixels, more than the limit of {max_pixels:,}; "
                "raise the limit with max_pixels=… / --max-pixels"
            )
        values = np.asarray(data.pixel_array)
    except ImageError:
        raise
    except Exception as error:  # of a format with many parts
        raise ImageError(f"{path} is no DICOM image that pydicom reads ({first_line(error, 120)})") from error
    kind = str(data.get("PhotometricInterpretation", ""))
    if values.ndim == 3 and not kind.startswith("MONOCHROME") and values.shape[2] == 3:
        return DeepImage(values, name=str(path))
    while values.ndim > 2:
        values = values[0]
    values = values.astype(np.float32) * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
    black, white = _window(data, values)
    if kind == "MONOCHROME1":
        black, white = white, black
    return DeepImage(values[..., None], black, white, str(path))


def _window(data: Any, values: np.ndarray) -> tuple[float, float]:
    """Return the values at the ends of the first window (DICOM PS3.3, C.11.2.1.2)."""
    center, width = (_first(data.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width < 1:
        low, high = float(values.min()), float(values.max())
        return low, high if high > low else low + 1
    if width == 1:
        return center - 0.5, center + 0.5
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def _first(value: Any) -> float | None:
    if value is None:
        return None
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return float(values[0]) if values else None
