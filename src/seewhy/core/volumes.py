"""Volumes in: stacks of slices (CT, MR, microscopy), from arrays and files to the input of a 3-D model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from numpy import ndarray
from PIL import Image, ImageSequence
from torch import Tensor

from seewhy.core.files import is_dicom, read_array, read_dicom
from seewhy.core.io import first_line
from seewhy.errors import ImageError, OptionError, require

VolumeLike = str | Path | ndarray | Tensor
NIFTI = (".nii", ".nii.gz")
MAX_VOXELS = 500_000_000
AXES = "(depth, rows, cols), or (channels, depth, rows, cols)"


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as it came: nothing is scaled, rounded or cut off.

    Attributes:
        values: (channels, depth, rows, cols), of any type of number.
        name: For messages.
    """

    values: ndarray
    name: str = "the volume"

    @property
    def size(self) -> tuple[int, int, int]:
        """Depth, rows and columns."""
        _, depth, rows, cols = self.values.shape
        return depth, rows, cols


@dataclass(frozen=True)
class VolumePreprocess:
    """Window, resize, normalize: from a volume to a 3-D model's input.

    Attributes:
        size: (depth, rows, cols) of the input. Other volumes are resized to it, trilinearly and as a whole.
        levels: The values that become 0 and 1, a window such as (-1000, 400) Hounsfield units; what is beyond is
            clipped. None: values stay as they are.
        mean: One for each channel that the model takes, subtracted after the window.
        std: Likewise, what is divided by.
        origin: From where all this is known, for people.

    Raises:
        OptionError: An attribute has a value that makes no sense.
    """

    size: tuple[int, int, int]
    levels: tuple[float, float] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    origin: str = field(default="assumed: values as they are", compare=False)

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1:
            raise OptionError(f"size={self.size} is not (depth, rows, cols); pass three sides")
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise OptionError(f"mean={self.mean}, std={self.std}: give one of each for each channel, std above 0")
        if self.levels is not None and self.levels[0] >= self.levels[1]:
            raise OptionError(f"levels={self.levels} are no window; pass (low, high)")

    @property
    def channels(self) -> int:
        """How many channels the input has."""
        return len(self.mean)

    def __call__(self, volume: Volume) -> Float[Tensor, "channels depth rows cols"]:
        """Return the model's input for one volume, float32.

        Raises:
            ImageError: The volume has other channels, or holds NaN or infinity.
        """
        if len(volume.values) != self.channels:
            raise ImageError(
                f"{volume.name} has shape {volume.values.shape}, that is {len(volume.values)} channels, and the model "
                f"takes {self.channels}; pass {AXES}"
            )
        values = torch.from_numpy(volume.values.astype(np.float32))
        if not torch.isfinite(values).all():
            raise ImageError(f"{volume.name} holds NaN or infinity; repair it first, e.g. with numpy.nan_to_num")
        if self.levels is not None:
            black, white = self.levels
            values = ((values - black) / (white - black)).clamp(0, 1)
        if values.shape[1:] != self.size:
            values = F.interpolate(values[None], self.size, mode="trilinear", align_corners=False)[0]
        mean, std = (torch.tensor(each).view(-1, 1, 1, 1) for each in (self.mean, self.std))
        return (values - mean) / std

    def describe(self) -> str:
        """Return everything that happens to a volume, in one line."""
        window = "values as they are" if self.levels is None else f"{self.levels[0]:g} … {self.levels[1]:g} to [0, 1]"
        numbers = "; ".join(f"{name} {', '.join(f'{v:g}' for v in getattr(self, name))}" for name in ("mean", "std"))
        return f"{window}; to {'×'.join(map(str, self.size))} voxels; {numbers}"


def opened_volume(volume: Any, channels: int | None = None) -> Callable[[], Volume]:
    """Check what a user gives as a volume, and return what reads it.

    Args:
        volume: An array or tensor (depth, rows, cols) or (channels, depth, rows, cols), a `.npy` file of one, a TIFF
            with a page for each slice, or a folder of the DICOM files of one series.
        channels: How many channels the model takes, where it is known.

    Raises:
        ImageError: It is none of these.
    """
    if isinstance(volume, Volume):
        return lambda: volume
    if isinstance(volume, str | Path):
        path = Path(volume).expanduser()
        if not path.exists():
            raise ImageError(f"{path} does not exist; check the path")
        return lambda: _checked(_read(path), channels, str(path))
    if isinstance(volume, Tensor):
        tensor = volume.detach().cpu()
        return lambda: _checked((tensor.float() if tensor.is_floating_point() else tensor).numpy(), channels)
    if isinstance(volume, ndarray):
        return lambda: _checked(volume, channels)
    raise ImageError(
        f"a {type(volume).__name__} is not a volume; pass an array {AXES}, a .npy file, a TIFF of slices, or a folder "
        "of DICOM slices"
    )


def _checked(values: ndarray, channels: int | None, name: str = "the volume") -> Volume:
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or not values.size or values.dtype.kind not in "biuf":
        raise ImageError(f"{name} has shape {values.shape} of {values.dtype}; a volume is {AXES}, of numbers")
    if values.size > MAX_VOXELS:
        raise ImageError(f"{name} has {values.size:,} voxels, more than {MAX_VOXELS:,}; crop or downsample it first")
    if channels is not None and len(values) != channels and values.shape[-1] == channels:
        raise ImageError(
            f"{name} has shape {values.shape}, with its channels last; pass numpy.moveaxis(volume, -1, 0): {AXES}"
        )
    return Volume(values, name)


def _read(path: Path) -> ndarray:
    if path.is_dir():
        return _dicom_series(path)
    name = path.name.lower()
    if name.endswith(".npy"):
        return np.asarray(read_array(path))
    if name.endswith(NIFTI):
        raise ImageError(
            f"{path} is NIfTI; pass the array: nibabel.load({str(path)!r}).get_fdata().transpose(2, 1, 0), "
            "turned as in the training"
        )
    if name.endswith((".tif", ".tiff")):
        return _pages(path)
    raise ImageError(f"{path} is no volume that seewhy reads; pass a .npy file, a TIFF of slices, or an array")


def _pages(path: Path) -> ndarray:
    try:
        with Image.open(path, formats=["TIFF"]) as image:
            slices = [np.array(page) for page in ImageSequence.Iterator(image)]
    except Exception as error:  # decoders raise anything on broken bytes
        raise ImageError(f"{path} cannot be read ({first_line(error)}); get the file again") from error
    if len(slices) < 2 or len({page.shape for page in slices}) > 1 or slices[0].ndim != 2:
        raise ImageError(f"{path} does not hold gray slices of one size; save the volume with numpy.save")
    return np.stack(slices)


def _dicom_series(folder: Path) -> ndarray:
    """Return the slices of a series, in Hounsfield units for a CT, in the order of their places along its axis."""
    pydicom: Any = require("pydicom", "lidc")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]
    if len(files) < 2:
        raise ImageError(f"{folder} holds no series of DICOM slices; pass an array {AXES}")
    headers = [(pydicom.dcmread(path, stop_before_pixels=True), path) for path in files]
    if len({str(header.get("SeriesInstanceUID", "")) for header, _ in headers}) > 1:
        raise ImageError(f"{folder} holds several series; put each into a folder of its own")
    ordered = [path for _, path in sorted(headers, key=lambda pair: _place(pair[0]))]
    slices = [read_dicom(path, MAX_VOXELS).values[..., 0] for path in ordered]
    if len({each.shape for each in slices}) > 1:
        raise ImageError(f"{folder} holds slices of several sizes; put each series into a folder of its own")
    return np.stack(slices)


def _place(header: Any) -> float:
    """Return where a slice lies along the axis of its series; its number, where the file does not tell."""
    position, axes = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if position is None or axes is None:
        return float(header.get("InstanceNumber", 0))
    normal = np.cross(np.array(axes[:3], float), np.array(axes[3:], float))
    return float(np.dot(normal, np.array(position, float)))


def shown_levels(values: Float[Tensor, "channels *size"]) -> Float32[ndarray, "*size"]:
    """Return what a model saw as gray levels in [0, 1], for people: the mean of its channels, stretched."""
    gray = values.detach().float().cpu().mean(0)
    return ((gray - gray.min()) / (gray.max() - gray.min()).clamp(min=1e-12)).numpy()


def as_volumes(volumes: Any) -> list[Any]:
    """Return one volume, or each of several, as a list."""
    one = isinstance(volumes, str | Path | Volume)
    if one or (isinstance(volumes, ndarray | Tensor) and volumes.ndim < 5):
        return [volumes]
    if not isinstance(volumes, Iterable):
        raise ImageError(f"a {type(volumes).__name__} is not a volume; pass an array {AXES}")
    return list(volumes)
