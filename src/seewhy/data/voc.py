"""PASCAL VOC 2007 and 2012: object masks (palette PNGs, 255 = void) or boxes (XML), as the development kit lies."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Item, dataset, expect
from seewhy.data.masks import read_numbers
from seewhy.data.reading import lines, once_each, one_of, photo
from seewhy.errors import DataError, OptionError

VOID = 255
CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


@dataset(
    name="voc",
    title="PASCAL VOC",
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    splits=("val", "train", "trainval", "test"),
    summary="Photos of 20 kinds of things, with a mask or a box for each object.",
    layout=(
        "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        "VOCdevkit/VOC2012/JPEGImages/*.jpg",
        "VOCdevkit/VOC2012/Annotations/*.xml",
        "VOCdevkit/VOC2012/SegmentationClass/*.png",
        "VOCdevkit/VOC2012/SegmentationObject/*.png",
    ),
    source="the VOC trainval and test archives of host.robots.ox.ac.uk/pascal/VOC",
    citation="Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010",
)
class VOC(Dataset):
    """PASCAL VOC. Coordinates in the XML are 1-based and inclusive; ours are 0-based, right and bottom excluded.

    Args:
        root: the folder VOCdevkit, its parent, or the year's folder.
        split: `val`, `train`, `trainval` or `test` (2012's test has pictures only: labels are empty, masks None).
        year: 2007 or 2012.
        task: `segmentation` (ImageSets/Segmentation; masks, no boxes) or `boxes` (ImageSets/Main; boxes, no masks).
        single_label: only images whose objects are all of one class, by the XML.
        without: only images without any object of these classes, by the XML.

    The LaFAM paper's selection is `single_label=True, without=(person, tvmonitor, sofa, pottedplant, diningtable,
    chair, bottle)` on the segmentation val split. `about` has `difficult` and `truncated` for each box.

    Raises:
        DataError: the folder is not laid out so. OptionError: impossible option.
    """

    class_names = CLASSES

    def __init__(
        self,
        root: str | Path,
        split: str = "val",
        year: int = 2012,
        task: str = "segmentation",
        single_label: bool = False,
        without: Sequence[str] = (),
    ) -> None:
        one_of("split", split, self.card.splits)
        one_of("year", year, (2007, 2012))
        one_of("task", task, ("segmentation", "boxes"))
        for name in without:
            one_of("without", name, CLASSES)
        self.split, self.year, self.task = split, year, task
        self._labeled = split != "test" or year == 2007
        self.root = _year_folder(Path(root).expanduser(), year)
        listed = f"ImageSets/{'Segmentation' if task == 'segmentation' else 'Main'}/{split}.txt"
        folders = ("SegmentationClass", "SegmentationObject") if task == "segmentation" else ("Annotations",)
        expect(self.root, listed, "JPEGImages", *(folders if self._labeled else ()), card=self.card)
        self._ids = once_each((line.split()[0] for line in lines(self.root / listed)), self.root / listed)
        if single_label or without:
            if not self._labeled:
                raise OptionError("VOC 2012's test split has no annotations to select by; use split='val'")
            self._ids = tuple(i for i in self._ids if self._chosen(i, single_label, set(without)))

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def read(self, index: int) -> Item:
        name = self._ids[index]
        image = photo(self.root / "JPEGImages" / f"{name}.jpg")
        if not self._labeled:
            return Item(name, image)
        if self.task == "segmentation":
            return Item(name, image, **self._masks(name))
        found = self._objects(name)
        boxes = np.array([box for _, box, _ in found], dtype=np.float64).reshape(-1, 4)
        about = {key: [flags[key] for _, _, flags in found] for key in ("difficult", "truncated")}
        return Item(name, image, tuple(CLASSES.index(kind) for kind, _, _ in found), boxes=boxes, about=about)

    def _masks(self, name: str) -> dict[str, Any]:
        hint = "palette pictures hold numbers, RGB copies do not; use the official PNGs"
        kinds, objects = (
            read_numbers(self.root / folder / f"{name}.png", ("P", "L"), hint)
            for folder in ("SegmentationClass", "SegmentationObject")
        )
        if kinds.shape != objects.shape:
            raise DataError(f"{name}: SegmentationClass and SegmentationObject differ in size; get the files again")
        masks = [objects == k for k in np.unique(objects) if k not in (0, VOID)]
        stack = np.stack(masks) if masks else np.zeros((0, *objects.shape), dtype=bool)
        labels = tuple(_class_of(kinds[mask], name) for mask in masks)
        return {"labels": labels, "masks": stack, "ignore": objects == VOID}

    def _objects(self, name: str) -> list[tuple[str, list[float], dict[str, bool]]]:
        path = self.root / "Annotations" / f"{name}.xml"
        try:
            # only the objects' own names and boxes: parts (head, hand) have both too
            return [_object(node) for node in ElementTree.parse(path).getroot().findall("object")]
        except (OSError, ElementTree.ParseError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is missing or broken ({error}); get the file again") from error

    def _chosen(self, name: str, single_label: bool, without: set[str]) -> bool:
        try:
            kinds = {kind for kind, _, _ in self._objects(name)}
        except DataError:
            return True  # reading the item says what is wrong
        return not kinds & without and (not single_label or len(kinds) == 1)


def _year_folder(root: Path, year: int) -> Path:
    for folder in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if (folder / "ImageSets").is_dir():
            if (named := re.fullmatch(r"VOC(\d{4})", folder.name)) and int(named[1]) != year:
                raise DataError(f"{folder} is not of {year}; pass year={named[1]}")
            return folder
    return expect(root, f"VOCdevkit/VOC{year}/ImageSets", card=VOC.card)


def _class_of(values: np.ndarray, name: str) -> int:
    """The class of an object: that of most of its pixels."""
    votes = np.bincount(values, minlength=256)[1 : len(CLASSES) + 1]
    if not votes.any():
        raise DataError(
            f"{name}: an object of SegmentationObject has no class in SegmentationClass; get the files again"
        )
    return int(votes.argmax())


def _object(node: ElementTree.Element) -> tuple[str, list[float], dict[str, bool]]:
    kind, box = node.findtext("name").strip(), node.find("bndbox")
    if kind not in CLASSES:
        raise ValueError(f"class {kind!r} is none of VOC's")
    left, top, right, bottom = (float(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    flags = {key: (node.findtext(key) or "0").strip() == "1" for key in ("difficult", "truncated")}
    return kind, [left - 1, top - 1, right, bottom], flags
