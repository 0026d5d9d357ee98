"""COCO 2014 and 2017: a mask and a box for each object; crowd regions are ignored. COCO20k is a list of images."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Item, dataset, expect
from seewhy.data.reading import lines, once_each, one_of, photo, read_json
from seewhy.errors import DataError, require


@dataset(
    name="coco",
    title="COCO",
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    splits=("val2017", "train2017", "val2014", "train2014"),
    summary="Everyday photos with a mask and a box for each object of 80 kinds.",
    layout=("annotations/instances_val2017.json", "val2017/*.jpg"),
    source="cocodataset.org; the COCO20k list is datasets/coco_20k_filenames.txt of github.com/valeoai/LOST",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
)
class COCO(Dataset):
    """COCO instances, images by number; with `ids_file` in the order of the file.

    Args:
        root: holds `annotations` and the images' folder (`val2017` or `images/val2017`).
        split: one of the card's.
        task: `segmentation` (masks and boxes, needs seewhy[coco]) or `boxes` (boxes only).
        ids_file: take only these images: one file name or number a line. COCO20k is 19 817 names of `train2014`.

    Crowd regions are `ignore`, except where an object lies. With masks, an object without one pixel is left out
    (`about["without_mask"]` counts them). `about["annotation_ids"]` are COCO's numbers of the objects.

    Raises:
        DataError: the folder is not laid out so, or an id of the list is not in the split.
        MissingExtraError: pycocotools is not installed. OptionError: impossible option.
    """

    def __init__(
        self, root: str | Path, split: str = "val2017", task: str = "segmentation", ids_file: str | Path | None = None
    ) -> None:
        one_of("split", split, self.card.splits)
        one_of("task", task, ("segmentation", "boxes"))
        self.split, self.task = split, task
        self._rle = require("pycocotools.mask", "coco") if task == "segmentation" else None
        listed = f"annotations/instances_{split}.json"
        folder = expect(root, listed, card=self.card)
        self._folder = next((f for f in (folder / split, folder / "images" / split) if f.is_dir()), None)
        if self._folder is None:
            expect(folder, split, card=self.card)
        found = read_json(folder / listed, object_hook=_compact)
        try:
            kinds = sorted(found["categories"], key=lambda kind: kind["id"])
            self.class_names = tuple(kind["name"] for kind in kinds)
            self._label = {kind["id"]: i for i, kind in enumerate(kinds)}
            self._images = {image["id"]: image for image in found["images"]}
            self._objects: dict[int, list[dict]] = defaultdict(list)
            for row in found["annotations"]:
                self._objects[row["image_id"]].append(row)
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder / listed} lacks {error}; use the official instances file") from error
        self._numbers = sorted(self._images) if ids_file is None else self._listed(Path(ids_file))
        self._ids = once_each(map(str, self._numbers), folder / listed if ids_file is None else Path(ids_file))

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def read(self, index: int) -> Item:
        number = self._numbers[index]
        about = self._images[number]
        image = photo(self._folder / about["file_name"])
        try:
            return self._item(str(number), image, (about["height"], about["width"]), self._objects.get(number, []))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DataError(f"image {number}: broken annotation ({error!r}); get the annotations again") from error

    def _item(self, name: str, image: Any, size: tuple[int, int], rows: list[dict]) -> Item:
        objects = [row for row in rows if not row.get("iscrowd")]
        masks = ignore = None
        dropped = 0
        if self.task == "segmentation":
            pairs = [(row, self._mask(row["segmentation"], size)) for row in objects]
            kept = [(row, mask) for row, mask in pairs if mask.any()]
            dropped, objects = len(pairs) - len(kept), [row for row, _ in kept]
            masks = np.stack([mask for _, mask in kept]) if kept else np.zeros((0, *size), dtype=bool)
            ignore = np.zeros(size, dtype=bool)
            for row in rows:
                if row.get("iscrowd"):
                    ignore |= self._mask(row["segmentation"], size)
            ignore &= ~masks.any(0)
        boxes = np.array([row["bbox"] for row in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Item(
            name,
            image,
            tuple(self._label[row["category_id"]] for row in objects),
            masks,
            boxes,
            ignore,
            {"annotation_ids": [row["id"] for row in objects], "without_mask": dropped},
        )

    def _mask(self, shape: Any, size: tuple[int, int]) -> np.ndarray:
        """Polygons, or run lengths as numbers or as COCO's string."""
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
        found = []
        for line in lines(path):
            number = re.search(r"(\d+)$", Path(line).stem)
            if number is None or int(number[1]) not in self._images:
                raise DataError(f"{path}: {line!r} is no image of {self.split}; COCO20k is of split='train2014'")
            found.append(int(number[1]))
        return found


def _compact(node: dict) -> dict:
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
