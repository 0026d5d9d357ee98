"""CUB-200-2011: birds of 200 species, one per image, as Caltech's archives unpack."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Sample, check_layout, dataset
from seewhy.data.masks import read_levels
from seewhy.data.reading import check_choice, read_image, read_lines
from seewhy.errors import DataError

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt")
MAJORITY = 128


@dataset(
    name="cub",
    title="CUB-200-2011",
    summary="11,788 images of 200 species of birds, each with one mask and one box.",
    splits=("test", "train"),
    layout=(*LISTS, "images/<class>/*.jpg", "segmentations/<class>/*.png (an archive of its own; without: no masks)"),
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    source="https://data.caltech.edu/records/20098: CUB_200_2011.tgz and segmentations.tgz",
    citation="Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001",
)
class CUB(Dataset):
    """The birds, one object each.

    A mask's gray level is the share of its five annotators who called the pixel bird (0, 51 … 255); the mask is where
    the majority did: level ≥ 128, three of five. Boxes are the published ones, cut at the image's edge; they were
    drawn apart from the masks, and a mask may stick out of its box. `about` has the visible parts as {name: [x, y]}
    where `parts/` is there.

    Args:
        root: The folder `CUB_200_2011`, or the one that holds it. `segmentations/` may lie in either.
        split: `test` or `train`, the official ones.

    Raises:
        DataError: When the folder is not laid out so, or a list does not fit the others.
        OptionError: When there is no such split.
    """

    def __init__(self, root: str | Path, split: str = "test") -> None:
        inner = Path(root).expanduser() / "CUB_200_2011"
        self.root = check_layout(inner if inner.is_dir() else root, *LISTS, "images", card=self.card)
        check_choice("split", split, self.card.splits)
        self.split = split
        names, self._labels, self._boxes = (self._table(LISTS[i]) for i in (0, 1, 3))
        in_train = self._table(LISTS[2])
        self._numbers = [n for n in names if in_train.get(n, "") == ("1" if split == "train" else "0")]
        self._names = [names[n] for n in self._numbers]
        self._ids = tuple(name.rsplit(".", 1)[0] for name in self._names)
        for number in self._numbers:
            if number not in self._labels or number not in self._boxes:
                raise DataError(
                    f"image {number} of {self.root / LISTS[0]} has no line in {LISTS[1]} or {LISTS[3]}; "
                    "unpack the archive again"
                )
        classes = self._table(LISTS[4])
        self._index = {number: i for i, number in enumerate(classes)}
        self.class_names = tuple(name.split(".", 1)[-1].replace("_", " ") for name in classes.values())
        folders = (self.root / "segmentations", self.root.parent / "segmentations")
        self._masks = next((folder for folder in folders if folder.is_dir()), None)

    @property
    def ids(self) -> Sequence[str]:
        """The file names without their suffix."""
        return self._ids

    def read(self, index: int) -> Sample:
        """Read a sample."""
        number, name = self._numbers[index], self._names[index]
        image = read_image(self.root / "images" / name)
        try:
            x, y, width, height = map(float, self._boxes[number].split())
            label = self._index[self._labels[number]]
        except (ValueError, KeyError) as error:
            raise DataError(
                f"image {number}: its class or box is not a number ({error}); check {LISTS[1]} and {LISTS[3]}"
            ) from None
        box = np.array([[x, y, x + width, y + height]]).clip(0, [image.width, image.height] * 2)
        return Sample(self._ids[index], image, (label,), self._mask(index), box, about=self._about(number))

    def _mask(self, index: int) -> Bool[ndarray, "1 rows cols"] | None:
        if self._masks is None:
            return None
        return read_levels(self._masks / f"{self._ids[index]}.png")[None] >= MAJORITY

    def _about(self, number: str) -> dict[str, Any]:
        return {"parts": self._parts[number]} if number in self._parts else {}

    @cached_property
    def _parts(self) -> dict[str, dict[str, list[float]]]:
        """The visible parts of each image; read when the first sample is."""
        folder = self.root / "parts"
        if not (folder / "part_locs.txt").is_file() or not (folder / "parts.txt").is_file():
            return {}
        names = self._table("parts/parts.txt")
        parts: dict[str, dict[str, list[float]]] = {}
        for line in read_lines(folder / "part_locs.txt"):
            try:
                number, part, x, y, visible = line.split()
                if visible == "1":
                    parts.setdefault(number, {})[names[part]] = [float(x), float(y)]
            except (ValueError, KeyError) as error:
                raise DataError(
                    f"{folder / 'part_locs.txt'} has the line {line!r} ({error}); unpack the archive again"
                ) from None
        return parts

    def _table(self, file: str) -> dict[str, str]:
        """Read the lines `<number> <rest>` of a list."""
        pairs = [line.split(maxsplit=1) for line in read_lines(self.root / file)]
        wrong = next((pair for pair in pairs if len(pair) != 2), None)
        if wrong:
            raise DataError(
                f"{self.root / file} has the line {wrong[0]!r}; each needs a number and a value; "
                "unpack the archive again"
            )
        return {number: rest for number, rest in pairs}
