"""LIDC-IDRI as The Cancer Imaging Archive gives it: CT series in DICOM, and the readers' marks in XML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Num
from numpy import ndarray

from seewhy.data.lidc_marks import BIOMARKERS, Mark, consensus, nodules, read_xml, series_of
from seewhy.errors import DataError, OptionError, require


@dataclass(frozen=True, eq=False)
class Series:
    """One CT: its folder, and what the head of one of its files says. Spacing is mm in x and y."""

    folder: Path
    uid: str
    patient: str
    spacing: tuple[float, float]
    thickness: float

    @cached_property
    def files(self) -> dict[str | float, Path]:
        """The files by the UID of their slice and by its z; reads all heads, when the first item does."""
        found: dict[str | float, Path] = {}
        for path in _named(self.folder.iterdir(), ".dcm"):
            head = _head(path, ["SOPInstanceUID", "ImagePositionPatient"])
            found[str(head.get("SOPInstanceUID"))] = path
            if place := head.get("ImagePositionPatient"):
                found.setdefault(round(float(place[2]), 2), path)
        return found

    def hounsfield(self, slice: str, z: float) -> Num[ndarray, "rows cols"]:
        """The slice of that UID (or, where the XML names none that is there, at that height), in Hounsfield units."""
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
        return len({mark.reader for mark in self.marks})

    def mean(self, name: str) -> float:
        """Of a rating, over the marks."""
        return float(np.mean([mark.ratings[name] for mark in self.marks]))

    @property
    def malignancy(self) -> float:
        return self.mean("malignancy")

    @property
    def about(self) -> dict[str, Any]:
        diameter = float(np.mean([mark.diameter(self.series.spacing) for mark in self.marks]))
        return {
            "malignancy": self.malignancy,
            "biomarkers": {name: self.mean(name) for name in BIOMARKERS},
            "diameter_mm": diameter,
            "readers": self.readers,
            "patient": self.series.patient,
            "series": self.series.uid,
        }

    def crop(self, size: int) -> tuple[Num[ndarray, "rows cols"], Bool[ndarray, "rows cols"]]:
        """Hounsfield units and consensus on the slice where the consensus is largest (the lowest of equals).

        The square is centered on the consensus' box (without consensus: on all outlines of the slice), and pushed
        into the picture where it would stick out.
        """
        heights = {name: z for mark in self.marks for name, z in mark.slices.items()}
        points = np.concatenate([o.points for mark in self.marks for o in mark.outlines])
        start, stop = points.min(0).clip(0), points.max(0) + 1  # consensus lies inside: fill no more than this
        window = [_shifted(mark, start) for mark in self.marks]
        shape = tuple(np.maximum(stop - start, 1)[::-1].tolist())
        areas = {name: int(consensus(window, name, shape).sum()) for name in heights}
        best = min(heights, key=lambda name: (-areas[name], heights[name]))
        pixels = self.series.hounsfield(best, heights[best])
        mask = consensus(self.marks, best, pixels.shape)
        if min(pixels.shape) < size:
            raise OptionError(f"a crop of {size} is larger than the scan ({pixels.shape}); pass a smaller size")
        ys, xs = np.nonzero(mask) if mask.any() else _drawn(self.marks, best)
        corner = [
            int(np.clip((v.min() + v.max() + 1 - size) // 2, 0, edge - size))
            for v, edge in ((ys, pixels.shape[0]), (xs, pixels.shape[1]))
        ]
        inner = (slice(corner[0], corner[0] + size), slice(corner[1], corner[1] + size))
        return pixels[inner], mask[inner]


def scanned(root: Path, annotations: Path) -> Iterator[ScannedNodule]:
    """All nodules of the CT series below `root` that have an XML file below `annotations`, series by series."""
    described = {uid: path for path in _named(annotations.rglob("*"), ".xml") if (uid := series_of(path))}
    folders = sorted({path.parent for path in _named(root.rglob("*"), ".dcm")})
    if not described or not folders:
        missing = "*.dcm" if described else "*.xml with a SeriesInstanceUid"
        raise DataError(
            f"no {missing} below {root if described else annotations}; a scan lies in "
            "LIDC-IDRI-*/<study>/<series>/*.dcm, its marks in an XML beside it or in annotations="
        )
    known = [series for folder in folders if (series := _series(folder)) is not None and series.uid in described]
    if not known:
        raise DataError(
            f"none of the {len(described)} XML files in {annotations} is about a CT series below {root}; "
            "pass annotations= the folder with theirs"
        )
    for series in known:
        groups = nodules(read_xml(described[series.uid]), series.spacing, series.thickness)
        for k, marks in enumerate(groups, 1):
            # a few patients have two scans: the end of the series' UID keeps them apart
            yield ScannedNodule(f"{series.patient}-{series.uid[-6:]}-{k}", series, marks)


def _named(paths: Iterable[Path], suffix: str) -> list[Path]:
    """Those with the suffix, in either case, in order."""
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
        raise DataError(f"{path} is no readable DICOM file ({error}); get the file again") from error


def _shifted(mark: Mark, start: ndarray) -> Mark:
    outlines = tuple(type(o)(o.slice, o.z, o.inclusion, o.points - start) for o in mark.outlines)
    return Mark(mark.reader, mark.ratings, outlines)


def _drawn(marks: Sequence[Mark], name: str) -> tuple[ndarray, ndarray]:
    points = np.concatenate([o.points for mark in marks for o in mark.outlines if o.slice == name])
    return points[:, 1], points[:, 0]
