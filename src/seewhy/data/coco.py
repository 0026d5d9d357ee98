"""COCO 2014 and 2017: a mask and a box for each object; crowd regions are ignored. COCO20k is a list of images."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Sample, check_layout, dataset
from seewhy.data.reading import check_choice, check_unique, read_image, read_json, read_lines
from seewhy.errors import DataError, require


@dataset(
    name="coco",
    title="COCO",
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    splits=("val2017", "train2017", "val2014", "train2014"),
    summary="Everyday images with a mask and a box for each object of 80 kinds.",
    layout=("annotations/instances_val2017.json", "val2017/*.jpg"),
    source="cocodataset.org; the COCO20k list is datasets/coco_20k_filenames.txt of github.com/valeoai/LOST",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
)
class COCO(Dataset):
    """COCO instances, images by number; with `ids_file` in the order of the file.

    Args:
        root: Holds `annotations` and the images' folder (`val2017` or `images/val2017`).
        split: One of the card's.
        task: `segmentation` (masks and boxes, needs seewhy[coco]) or `boxes` (boxes only).
        ids_file: Only these images: one file name or number a line. COCO20k is 19 817 names of `train2014`.

    Crowd regions are `ignore`, except where an object lies. With masks, an object without one pixel is left out
    (`about["without_mask"]` counts them). `about["annotation_ids"]` are COCO's numbers of the objects.

    Raises:
        DataError: When the folder is not laid out so, or an id of the list is not in the split.
        MissingExtraError: When pycocotools is not installed.
        OptionError: When there is no such split or task.
    """

    def __init__(
        self, root: str | Path, split: str = "val2017", task: str = "segmentation", ids_file: str | Path | None = None
    ) -> None:
        check_choice("split", split, self.card.splits)
        check_choice("task", task, ("segmentation", "boxes"))
        self.split, self.task = split, task
        self._rle: Any = require("pycocotools.mask", "coco") if task == "segmentation" else None
        listed = f"annotations/instances_{split}.json"
        folder = check_layout(root, listed, card=self.card)
        flat, nested = folder / split, folder / "images" / split
        self._folder = nested if nested.is_dir() and not flat.is_dir() else flat
        if not self._folder.is_dir():
            check_layout(folder, split, card=self.card)
        annotations = read_json(folder / listed, object_hook=_compact)
        try:
            categories = sorted(annotations["categories"], key=lambda category: category["id"])
            self.class_names = tuple(category["name"] for category in categories)
            self._label = {category["id"]: i for i, category in enumerate(categories)}
            self._images = {image["id"]: image for image in annotations["images"]}
            self._objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for row in annotations["annotations"]:
                self._objects[row["image_id"]].append(row)
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder / listed} lacks {error}; use the official instances file") from error
        self._numbers = sorted(self._images) if ids_file is None else self._listed(Path(ids_file))
        self._ids = check_unique(map(str, self._numbers), folder / listed if ids_file is None else Path(ids_file))

    @property
    def ids(self) -> Sequence[str]:
        """COCO's image numbers."""
        return self._ids

    def read(self, index: int) -> Sample:
        """Read a sample."""
        number = self._numbers[index]
        entry = self._images[number]
        image = read_image(self._folder / entry["file_name"])
        try:
            return self._sample(str(number), image, (entry["height"], entry["width"]), self._objects.get(number, []))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DataError(f"image {number}: broken annotation ({error!r}); get the annotations again") from error

    def _sample(self, name: str, image: Image.Image, size: tuple[int, int], rows: list[dict[str, Any]]) -> Sample:
        objects = [row for row in rows if not row.get("iscrowd")]
        masks = ignore = None
        dropped = 0
        if self.task == "segmentation":
            drawn = [(row, self._mask(row["segmentation"], size)) for row in objects]
            kept = [(row, mask) for row, mask in drawn if mask.any()]
            dropped, objects = len(drawn) - len(kept), [row for row, _ in kept]
            masks = np.stack([mask for _, mask in kept]) if kept else np.zeros((0, *size), dtype=bool)
            ignore = np.zeros(size, dtype=bool)
            for row in rows:
                if row.get("iscrowd"):
                    ignore |= self._mask(row["segmentation"], size)
            ignore &= ~masks.any(0)
        boxes = np.array([row["bbox"] for row in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Sample(
            name,
            image,
            tuple(self._label[row["category_id"]] for row in objects),
            masks,
            boxes,
            ignore,
            {"annotation_ids": [row["id"] for row in objects], "without_mask": dropped},
        )

    def _mask(self, shape: Any, size: tuple[int, int]) -> Bool[ndarray, "rows cols"]:
        """Decode polygons, or run lengths as numbers or as COCO's string."""
        if isinstance(shape, list):
            # pycocotools takes four numbers for a box; with fewer than three corners there is no area
            parts = [list(part) for part in shape if len(part) >= 6]
            if not parts:
                return np.zeros(size, dtype=bool)
            code = self._rle.merge(self._rle.frPyObjects(parts, *size))
        else:
            code = self._rle.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape
        return self._rle.decode(code).astype(bool)

    def _listed(self, path: Path) -> list[int]:
        numbers = []
        for line in read_lines(path):
            match = re.search(r"(\d+)$", Path(line).stem)
            if match is None or int(match[1]) not in self._images:
                raise DataError(f"{path}: {line!r} is not an image of {self.split}; COCO20k is of split='train2014'")
            numbers.append(int(match[1]))
        return numbers


def _compact(node: dict[str, Any]) -> dict[str, Any]:
    """Drop what is not used and keep polygons as plain memory: the train annotations are gigabytes as objects."""
    if "segmentation" in node:
        shape = node["segmentation"]
        if isinstance(shape, list):
            shape = [array("d", part) for part in shape]
        return {
            **{k: node[k] for k in ("id", "image_id", "category_id", "bbox", "iscrowd") if k in node},
            "segmentation": shape,
        }
    if "file_name" in node:
        return {k: node[k] for k in ("id", "file_name", "height", "width") if k in node}
    return node
