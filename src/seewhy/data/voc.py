"""PASCAL VOC 2007 and 2012: object masks (palette PNGs, 255 = void) or boxes (XML), as the development kit lies."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Sample, check_layout, dataset
from seewhy.data.masks import read_numbers
from seewhy.data.reading import check_choice, check_unique, read_choice, read_image, read_lines
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
    summary="Images of 20 kinds of things, with a mask or a box for each object.",
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
        root: The folder VOCdevkit, its parent, or the year's folder.
        split: `val`, `train`, `trainval` or `test` (2012's test has images only: labels are empty, masks None).
        year: 2007 or 2012.
        task: `segmentation` (ImageSets/Segmentation; masks, no boxes) or `boxes` (ImageSets/Main; boxes, no masks).
        single_label: Only images whose objects are all of one class, by the XML.
        without: Only images without any object of these classes, by the XML.
        square: Select not by the XML but by the classes that the mask has in its central square at this many pixels a
            side (nearest), as a model sees it.
        ids_file: A list of the images to take: on each line an id, or a position in the split's list, from 0.
        void: What the pixels are that nobody labeled: `ignore`, which count as nothing, or `background`.

    The LaFAM paper's selection is `single_label=True, square=224, without=(person, tvmonitor, sofa, pottedplant,
    diningtable, chair, bottle)` on the segmentation val split, where void is background: 753 images. `about` has
    `difficult` and `truncated` for each box.

    Raises:
        DataError: When the folder is not laid out so.
        OptionError: When an option has a value that it does not accept.
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
        square: int | None = None,
        ids_file: str | Path | None = None,
        void: str = "ignore",
    ) -> None:
        check_choice("split", split, self.card.splits)
        check_choice("year", year, (2007, 2012))
        check_choice("task", task, ("segmentation", "boxes"))
        check_choice("void", void, ("ignore", "background"))
        if square is not None and (square < 1 or task != "segmentation"):
            raise OptionError(f"square={square} needs masks and at least 1 pixel; use task='segmentation', square=224")
        self._square, self._void = square, void
        for name in without:
            check_choice("without", name, CLASSES)
        self.split, self.year, self.task = split, year, task
        self._labeled = split != "test" or year == 2007
        self.root = _year_folder(Path(root).expanduser(), year)
        listed = f"ImageSets/{'Segmentation' if task == 'segmentation' else 'Main'}/{split}.txt"
        folders = ("SegmentationClass", "SegmentationObject") if task == "segmentation" else ("Annotations",)
        check_layout(self.root, listed, "JPEGImages", *(folders if self._labeled else ()), card=self.card)
        self._ids = check_unique((line.split()[0] for line in read_lines(self.root / listed)), self.root / listed)
        if ids_file is not None:
            self._ids = read_choice(Path(ids_file).expanduser(), self._ids)
        if single_label or without:
            if not self._labeled:
                raise OptionError("VOC 2012's test split has no annotations to select by; use split='val'")
            self._ids = tuple(i for i in self._ids if self._chosen(i, single_label, set(without)))

    @property
    def ids(self) -> Sequence[str]:
        """The file names without their suffix."""
        return self._ids

    def read(self, index: int) -> Sample:
        """Read a sample."""
        name = self._ids[index]
        image = read_image(self.root / "JPEGImages" / f"{name}.jpg")
        if not self._labeled:
            return Sample(name, image)
        if self.task == "segmentation":
            return Sample(name, image, **self._masks(name))
        objects = self._objects(name)
        labels = tuple(CLASSES.index(each.class_name) for each in objects)
        boxes = np.array([each.box for each in objects], dtype=np.float64).reshape(-1, 4)
        about = {"difficult": [each.difficult for each in objects], "truncated": [each.truncated for each in objects]}
        return Sample(name, image, labels, boxes=boxes, about=about)

    def _masks(self, name: str) -> dict[str, Any]:
        hint = "palette images hold numbers, RGB copies do not; use the official PNGs"
        classes, objects = (
            read_numbers(self.root / folder / f"{name}.png", ("P", "L"), hint)
            for folder in ("SegmentationClass", "SegmentationObject")
        )
        if classes.shape != objects.shape:
            raise DataError(f"{name}: SegmentationClass and SegmentationObject differ in size; get the files again")
        masks = [objects == k for k in np.unique(objects) if k not in (0, VOID)]
        stack = np.stack(masks) if masks else np.zeros((0, *objects.shape), dtype=bool)
        labels = tuple(_class_of(classes[mask], name) for mask in masks)
        return {"labels": labels, "masks": stack, "ignore": objects == VOID if self._void == "ignore" else None}

    def _objects(self, name: str) -> list[_Object]:
        path = self.root / "Annotations" / f"{name}.xml"
        try:
            # only the objects' own names and boxes: parts (head, hand) have both too
            return [_object(node) for node in ElementTree.parse(path).getroot().findall("object")]
        except (OSError, ElementTree.ParseError, ValueError) as error:
            raise DataError(f"{path} is missing or broken ({error}); get the file again") from error

    def _chosen(self, name: str, single_label: bool, without: set[str]) -> bool:
        try:
            if self._square is None:
                classes = {each.class_name for each in self._objects(name)}
            else:
                classes = self._classes_in_square(name, self._square)
        except DataError:
            return True  # reading the sample says what is wrong
        return not classes & without and (not single_label or len(classes) == 1)

    def _classes_in_square(self, name: str, side: int) -> set[str]:
        """Return the classes in the central square of the class mask, resized by nearest neighbor."""
        path = self.root / "SegmentationClass" / f"{name}.png"
        numbers = read_numbers(path, ("P", "L"), "palette images hold numbers; use the official PNGs")
        rows, cols = numbers.shape
        short = min(rows, cols)
        top, left = round((rows - short) / 2), round((cols - short) / 2)
        square = Image.fromarray(numbers[top : top + short, left : left + short])
        seen = np.unique(np.asarray(square.resize((side, side), Image.Resampling.NEAREST))).tolist()
        return {CLASSES[number - 1] for number in seen if 0 < number <= len(CLASSES)}


def _year_folder(root: Path, year: int) -> Path:
    for folder in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if (folder / "ImageSets").is_dir():
            match = re.fullmatch(r"VOC(\d{4})", folder.name)
            if match and int(match[1]) != year:
                raise DataError(f"{folder} is not of {year}; pass year={match[1]}")
            return folder
    return check_layout(root, f"VOCdevkit/VOC{year}/ImageSets", card=VOC.card)


def _class_of(values: UInt8[ndarray, " pixels"], name: str) -> int:
    """Return the class of an object: that of most of its pixels."""
    votes = np.bincount(values, minlength=256)[1 : len(CLASSES) + 1]
    if not votes.any():
        raise DataError(
            f"{name}: an object of SegmentationObject has no class in SegmentationClass; get the files again"
        )
    return int(votes.argmax())


class _Object(NamedTuple):
    """An object in an annotation file; its box is left, top, right, bottom."""

    class_name: str
    box: tuple[float, float, float, float]
    difficult: bool
    truncated: bool


def _object(node: ElementTree.Element) -> _Object:
    class_name = _text(node, "name")
    if class_name not in CLASSES:
        raise ValueError(f"class {class_name!r} is not one of VOC's")
    left, top, right, bottom = (float(_text(node, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
    difficult, truncated = ((node.findtext(key) or "0").strip() == "1" for key in ("difficult", "truncated"))
    return _Object(class_name, (left - 1, top - 1, right, bottom), difficult, truncated)


def _text(node: ElementTree.Element, path: str) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"an object has no {path}")
    return text.strip()
