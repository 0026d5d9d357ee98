"""LIDC-IDRI as The Cancer Imaging Archive gives it: CT series in DICOM, and the readers' marks in XML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Num
from numpy import ndarray

from seewhy.data.lidc_marks import BIOMARKERS, DIAMETER, Mark, Outline, consensus, group_marks, read_xml, series_of
from seewhy.errors import DataError, OptionError, require


@dataclass(frozen=True, eq=False)
class Series:
    """One CT.

    Attributes:
        folder: Where its files are.
        uid: Its series UID.
        patient: The patient's id.
        spacing: mm per pixel in x and y.
        thickness: mm per slice.
    """

    folder: Path
    uid: str
    patient: str
    spacing: tuple[float, float]
    thickness: float

    @cached_property
    def files(self) -> dict[str | float, Path]:
        """The files by the UID of their slice and by its z; all heads are read with the first sample."""
        files: dict[str | float, Path] = {}
        for path in _named(self.folder.iterdir(), ".dcm"):
            head = _head(path, ["SOPInstanceUID", "ImagePositionPatient"])
            files[str(head.get("SOPInstanceUID"))] = path
            position = head.get("ImagePositionPatient")
            if position:
                files.setdefault(round(float(position[2]), 2), path)
        return files

    def hounsfield(self, slice: str, z: float) -> Num[ndarray, "rows cols"]:
        """Read the slice of a UID (or, where the series has none of that UID, at that height), in Hounsfield units."""
        path = self.files.get(slice) or self.files.get(round(z, 2))
        if path is None:
            raise DataError(f"{self.folder} has no slice {slice} and none at z = {z} mm; get the series again")
        try:
            data = require("pydicom", "lidc").dcmread(path)
            return data.pixel_array * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
        except (OSError, ValueError, AttributeError, KeyError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"the slice {path} cannot be read ({error}); get the file again") from error


@dataclass(frozen=True, eq=False)
class ScannedNodule:
    """A nodule in its scan, and the marks of its readers."""

    id: str
    series: Series
    marks: Sequence[Mark]

    @property
    def readers(self) -> int:
        """How many readers marked it."""
        return len({mark.reader for mark in self.marks})

    def mean(self, name: str) -> float:
        """Return the mean of a rating over the marks."""
        return float(np.mean([mark.ratings[name] for mark in self.marks]))

    @property
    def malignancy(self) -> float:
        """The mean rating."""
        return self.mean("malignancy")

    @property
    def about(self) -> dict[str, Any]:
        """The means of the ratings, and where it is from."""
        diameter = float(np.mean([mark.diameter(self.series.spacing) for mark in self.marks]))
        return {
            "malignancy": self.malignancy,
            "biomarkers": {name: diameter if name == DIAMETER else self.mean(name) for name in BIOMARKERS},
            "internalStructure": self.mean("internalStructure"),
            "diameter_mm": diameter,
            "readers": self.readers,
            "patient": self.series.patient,
            "series": self.series.uid,
        }

    def crop(self, size: int) -> tuple[Num[ndarray, "rows cols"], Bool[ndarray, "rows cols"]]:
        """Read Hounsfield units and consensus on the slice where the consensus is largest (the lowest of equals).

        The square is centered on the consensus' box (without consensus: on all outlines of the slice), and pushed
        into the image where it would stick out.

        Raises:
            OptionError: When the crop is larger than the scan.
        """
        heights = {name: z for mark in self.marks for name, z in mark.slices.items()}
        points = np.concatenate([o.points for mark in self.marks for o in mark.outlines])
        start, stop = points.min(0).clip(0), points.max(0) + 1  # consensus lies inside: fill no more than this
        shifted = [_shift(mark, start) for mark in self.marks]
        cols, rows = np.maximum(stop - start, 1).tolist()
        shape = (rows, cols)
        areas = {name: int(consensus(shifted, name, shape).sum()) for name in heights}
        best = min(heights, key=lambda name: (-areas[name], heights[name]))
        pixels = self.series.hounsfield(best, heights[best])
        mask = consensus(self.marks, best, pixels.shape)
        if min(pixels.shape) < size:
            raise OptionError(f"a crop of {size} is larger than the scan ({pixels.shape}); pass a smaller size")
        ys, xs = np.nonzero(mask) if mask.any() else _outline_pixels(self.marks, best)
        corner = [
            int(np.clip((v.min() + v.max() + 1 - size) // 2, 0, edge - size))
            for v, edge in ((ys, pixels.shape[0]), (xs, pixels.shape[1]))
        ]
        inner = (slice(corner[0], corner[0] + size), slice(corner[1], corner[1] + size))
        return pixels[inner], mask[inner]


def find_nodules(root: Path, annotations: Path) -> Iterator[ScannedNodule]:
    """Yield the nodules of the CT series below `root` that have an XML file below `annotations`, series by series.

    Args:
        root: Folder of the scans.
        annotations: Folder of the readers' marks.

    Yields:
        A nodule with the marks of its readers.

    Raises:
        DataError: When there are no scans, no annotations, or none that belong together.
    """
    described = {uid: path for path in _named(annotations.rglob("*"), ".xml") if (uid := series_of(path))}
    folders = sorted({path.parent for path in _named(root.rglob("*"), ".dcm")})
    if not described or not folders:
        missing = "*.dcm" if described else "*.xml with a SeriesInstanceUid"
        raise DataError(
            f"no {missing} below {root if described else annotations}; a scan lies in "
            "LIDC-IDRI-*/<study>/<series>/*.dcm, its marks in an XML beside it or in annotations="
        )
    all_series = [series for folder in folders if (series := _series(folder)) is not None]
    annotated = [series for series in all_series if series.uid in described]
    if not annotated:
        raise DataError(
            f"none of the {len(described)} XML files in {annotations} is about a CT series below {root}; "
            "pass annotations= the folder with theirs"
        )
    for series in annotated:
        groups = group_marks(read_xml(described[series.uid]), series.spacing, series.thickness)
        for k, marks in enumerate(groups, 1):
            # a few patients have two scans: the end of the series' UID keeps them apart
            yield ScannedNodule(f"{series.patient}-{series.uid[-6:]}-{k}", series, marks)


def _named(paths: Iterable[Path], suffix: str) -> list[Path]:
    """Return the paths with a suffix, in either case, in order."""
    return sorted(path for path in paths if path.suffix.lower() == suffix)


def _series(folder: Path) -> Series | None:
    path = _named(folder.iterdir(), ".dcm")[0]
    head = _head(path, ["SeriesInstanceUID", "Modality", "PatientID", "PixelSpacing", "SliceThickness"])
    if head.get("Modality") != "CT":
        return None  # some patients have a chest X-ray too
    try:
        y, x = map(float, head.PixelSpacing)
        return Series(folder, str(head.SeriesInstanceUID), str(head.PatientID), (x, y), float(head.SliceThickness))
    except (AttributeError, ValueError, TypeError) as error:
        raise DataError(f"the head of {path} is not that of a CT slice ({error}); get the series again") from error


def _head(path: Path, tags: list[str]) -> Any:
    pydicom = require("pydicom", "lidc")
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except (OSError, ValueError, AttributeError, EOFError, pydicom.errors.InvalidDicomError) as error:
        raise DataError(f"{path} cannot be read as DICOM ({error}); get the file again") from error


def _shift(mark: Mark, start: Int[ndarray, "2"]) -> Mark:
    outlines = tuple(Outline(o.slice, o.z, o.inclusion, o.points - start) for o in mark.outlines)
    return Mark(mark.reader, mark.ratings, outlines)


def _outline_pixels(marks: Sequence[Mark], name: str) -> tuple[Int[ndarray, " points"], Int[ndarray, " points"]]:
    """Return rows and columns of all outlines on a slice."""
    points = np.concatenate([o.points for mark in marks for o in mark.outlines if o.slice == name])
    return points[:, 1], points[:, 0]
