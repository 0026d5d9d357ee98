"""LIDC-IDRI: nodules in CT of the lung, marked and rated by up to four radiologists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Num, UInt8
from numpy import ndarray
from PIL import Image

from seewhy.core.boxes import masks_to_boxes
from seewhy.core.cards import Requirement
from seewhy.core.images import load_image
from seewhy.data.base import Dataset, Sample, check_layout, dataset
from seewhy.data.lidc_marks import BIOMARKERS, DIAMETER
from seewhy.data.lidc_scans import find_nodules
from seewhy.data.masks import read_levels
from seewhy.data.reading import check_choice, check_unique, read_image, read_table
from seewhy.errors import DataError, OptionError

TABLE = "nodules.csv"
COLUMNS = {f"{name}_mm" if name == DIAMETER else name: name for name in BIOMARKERS}
"""Columns of the table, and the biomarkers that they hold."""

UNSURE = 3.0


@dataset(
    name="lidc",
    title="LIDC-IDRI",
    summary="Crops of lung CT, one nodule each, benign or malignant, with readers' consensus mask and 8 biomarkers.",
    splits=("decided", "all"),
    layout=(
        "LIDC-IDRI-*/<study>/<series>/*.dcm with an XML beside or in annotations=",
        f"or prepared crops: {TABLE} (id, image, mask, malignancy, {', '.join(COLUMNS)})",
    ),
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    source="https://www.cancerimagingarchive.net/collection/lidc-idri",
    citation="Armato et al.: The Lung Image Database Consortium and Image Database Resource Initiative, Med. Phys. 38, "
    "2011",
)
class LIDC(Dataset):
    """One sample for each nodule of 3 mm or more, on the axial slice where its consensus mask is largest.

    The mask is where at least half of the readers who marked the nodule put it (`consensus`); which marks are of one
    nodule, `lidc_marks.group_marks` decides. `about` has the means of the ratings: `malignancy`, the CDAM
    paper's eight `biomarkers` (the last is the diameter: the largest in-plane extent of an outline in mm, also under
    `diameter_mm`), `internalStructure` and `readers`. A mean malignancy below 3 is
    benign, above 3 malignant, 3 indeterminate. pylidc is not needed (it does not run with numpy 2).

    Two layouts. Scans as the archive gives them (needs pydicom): building reads every XML and one head per series,
    a sample its series' heads and one slice. Prepared crops: `nodules.csv` with one line for each crop and the columns
    above (`readers` and others may follow); images and masks by paths from the folder. A crop is an
    image, or a .npy of Hounsfield units (of gray levels if uint8); a mask an image or .npy, not 0 in the nodule.

    Args:
        root: The folder.
        split: `decided` leaves indeterminate nodules out.
        readers: Nodules that fewer readers marked are left out, where the number is known.
        size: Side of the crop in the scan's pixels; prepared crops stay as they are.
        level: Center of the window in Hounsfield units that becomes black to white; the usual one for lungs.
        width: Width of that window.
        annotations: The folder with the XML files, where they do not lie below `root`.

    Raises:
        DataError: When the folder is not laid out so.
        OptionError: When there is no such split, or a size or window is not above 0.
        MissingExtraError: When there are scans but no pydicom.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "decided",
        *,
        readers: int = 3,
        size: int = 64,
        level: float = -600.0,
        width: float = 1500.0,
        annotations: str | Path | None = None,
    ) -> None:
        check_choice("split", split, self.card.splits)
        self.split = split
        if size < 1 or width <= 0:
            raise OptionError(f"size={size} and width={width} must be above 0; try size=64, width=1500")
        self.root, self.size, self.window = check_layout(root, card=self.card), size, (level, width)
        if (self.root / TABLE).is_file():
            nodules: Iterator[Nodule] = _read_prepared(self.root)
        else:
            nodules = find_nodules(self.root, self.root if annotations is None else Path(annotations).expanduser())
        self._nodules = [
            nodule
            for nodule in nodules
            if (nodule.readers is None or nodule.readers >= readers) and (split == "all" or nodule.malignancy != UNSURE)
        ]
        self._ids = tuple(nodule.id for nodule in self._nodules)
        self.class_names = ("benign", "malignant", "indeterminate")[: 2 if split == "decided" else 3]

    @property
    def ids(self) -> Sequence[str]:
        """Patient, series and number of each nodule, or the ids of the table."""
        return self._ids

    def read(self, index: int) -> Sample:
        """Read a sample."""
        nodule = self._nodules[index]
        pixels, mask = nodule.crop(self.size)
        image = pixels if isinstance(pixels, Image.Image) else load_image(hounsfield_to_gray(pixels, *self.window))
        label = 2 if nodule.malignancy == UNSURE else int(nodule.malignancy > UNSURE)
        return Sample(nodule.id, image, (label,), mask[None], masks_to_boxes(mask[None]), about=dict(nodule.about))


def hounsfield_to_gray(values: Num[ndarray, "rows cols"], level: float, width: float) -> UInt8[ndarray, "rows cols"]:
    """Map Hounsfield units from level − width/2 to level + width/2 to 0 … 255; uint8 stays."""
    if values.dtype == np.uint8:
        return values
    return np.rint(255 * ((values - level) / width + 0.5).clip(0, 1)).astype(np.uint8)


class Nodule(Protocol):
    """A nodule of either layout."""

    @property
    def id(self) -> str:
        """The same on every machine."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """Ratings and whatever else is known."""
        ...

    @property
    def readers(self) -> int | None:
        """How many readers marked it."""
        ...

    @property
    def malignancy(self) -> float:
        """The mean rating."""
        ...

    def crop(self, size: int) -> tuple[Image.Image | Num[ndarray, "rows cols"], Bool[ndarray, "rows cols"]]:
        """Return the image or the values of the crop, and the nodule's mask in it."""
        ...


@dataclass(frozen=True, eq=False)
class PreparedNodule:
    """A line of `nodules.csv`."""

    id: str
    image: Path
    mask: Path
    about: dict[str, Any]

    @property
    def readers(self) -> int | None:
        """How many readers marked it; None where the table does not say."""
        return self.about.get("readers")

    @property
    def malignancy(self) -> float:
        """The mean rating."""
        return self.about["malignancy"]

    def crop(self, size: int) -> tuple[Image.Image | Num[ndarray, "rows cols"], Bool[ndarray, "rows cols"]]:
        """Read the crop as it is stored: an image or values, and its mask."""
        image = _read_array(self.image) if self.image.suffix == ".npy" else read_image(self.image)
        levels = _read_array(self.mask) if self.mask.suffix == ".npy" else read_levels(self.mask)
        return image, levels != 0


def _read_array(path: Path) -> Num[ndarray, "rows cols"] | Bool[ndarray, "rows cols"]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an array ({error}); write it with numpy.save") from error
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise DataError(f"{path} holds {array.dtype} {array.shape}; store finite numbers, (rows, cols)")
    return array


def _read_prepared(root: Path) -> Iterator[PreparedNodule]:
    rows = list(read_table(root / TABLE, "id", "image", "mask", "malignancy", *COLUMNS))
    check_unique((row["id"] for _, row in rows), root / TABLE)
    for number, row in rows:
        try:
            biomarkers = {name: _biomarker(name, row[column]) for column, name in COLUMNS.items()}
            about = {"malignancy": _rating(row["malignancy"]), "biomarkers": biomarkers}
            about |= {"diameter_mm": biomarkers[DIAMETER]}
            about |= {"readers": int(row["readers"])} if row.get("readers") else {}
        except ValueError as error:
            raise DataError(
                f"{root / TABLE} line {number}: {error}; ratings are numbers from 1 to 6, diameters above 0"
            ) from None
        used = {"id", "image", "mask", *about, *COLUMNS}
        about |= {name: value for name, value in row.items() if name and value and name not in used}
        yield PreparedNodule(row["id"], root / row["image"], root / row["mask"], about)


def _biomarker(name: str, text: str) -> float:
    if name != DIAMETER:
        return _rating(text)
    value = float(text)
    if not 0 < value < float("inf"):  # nor is NaN
        raise ValueError(f"{text!r} is not a diameter")
    return value


def _rating(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 6:  # nor is NaN
        raise ValueError(f"{text!r} is not a rating")
    return value
