"""ImageNet-S 50, 300 and 919: ImageNet images with a mask for each class, id = R + 256·G, 1000 = ignore."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from numpy import ndarray

from seewhy.core.cards import Requirement
from seewhy.core.imagenet import imagenet_classes, imagenet_wnids
from seewhy.data.base import Dataset, Sample, check_layout, dataset
from seewhy.data.masks import read_numbers
from seewhy.data.reading import check_choice, read_image, read_lines
from seewhy.errors import DataError

IGNORE = 1000
SIZES = (50, 300, 919)


@dataset(
    name="imagenet_s",
    title="ImageNet-S",
    has={Requirement.OBJECTS, Requirement.LABEL},
    splits=("validation", "train-semi", "train", "test"),
    summary="ImageNet images with a mask for each class that is present.",
    layout=("ImageNetS919/validation/<wnid>/*.JPEG", "ImageNetS919/validation-segmentation/<wnid>/*.png"),
    source="ImageNet-1k and the scripts of github.com/LUSSeg/ImageNet-S",
    citation="Gao et al., Large-scale Unsupervised Semantic Segmentation, TPAMI 2022",
)
class ImageNetS(Dataset):
    """ImageNet-S. Labels are ImageNet-1k indices, whatever the number of classes here.

    The numbers in the masks count the sorted WordNet ids of the chosen classes from 1 (README of LUSSeg/ImageNet-S);
    the class folders are those ids. 919 merges five pairs of look-alikes (sunglasses with sunglass …): the label is
    the one that was kept. 0 is background, 1000 becomes `ignore`.

    Args:
        root: The folder that holds `ImageNetS919`, or that folder.
        split: `validation`, `train-semi`, or `train` and `test` (no masks; the label is that of the folder).
        classes: 50, 300 or 919.
        single_id: Only images whose mask has exactly one number beside 0 and 1000 (reads all masks, in threads).
        categories: The official `ImageNetS_categories_im….txt`; needed only where class folders are missing.

    Raises:
        DataError: When the folder is not laid out so.
        OptionError: When an option has a value that it does not accept.
    """

    class_names = imagenet_classes()

    def __init__(
        self,
        root: str | Path,
        split: str = "validation",
        classes: int = 919,
        single_id: bool = False,
        categories: str | Path | None = None,
    ) -> None:
        check_choice("split", split, self.card.splits)
        check_choice("classes", classes, SIZES)
        folder = Path(root).expanduser()
        folder = folder / f"ImageNetS{classes}" if (folder / f"ImageNetS{classes}").is_dir() else folder
        self.annotated, self.split = split not in ("train", "test"), split
        masks = f"{split}-segmentation"
        check_layout(folder, split, *([masks] if self.annotated else []), card=self.card)
        self._images = {
            path.relative_to(folder / split).with_suffix("").as_posix(): path
            for path in (folder / split).glob("*/*")
            if path.suffix.lower() in (".jpeg", ".jpg")
        }
        self._mask_root, self._image_root = folder / masks, folder / split
        masked = {p.relative_to(self._mask_root).with_suffix("").as_posix() for p in self._mask_root.glob("*/*.png")}
        self._ids = tuple(sorted(set(self._images) | (masked if self.annotated else set())))
        self._classes = _classes(folder, classes, categories) if self.annotated else ()
        if single_id and self.annotated:
            with ThreadPoolExecutor() as pool:
                single = pool.map(self._has_one, self._ids)
                self._ids = tuple(name for name, keep in zip(self._ids, single, strict=True) if keep)

    @property
    def present(self) -> tuple[int, ...]:
        """The classes that have a folder in this split."""
        return tuple(sorted(map(_index, {name.split("/")[0] for name in self._ids})))

    @property
    def ids(self) -> Sequence[str]:
        """The class folder and the file name without its suffix."""
        return self._ids

    def read(self, index: int) -> Sample:
        """Read a sample."""
        name = self._ids[index]
        wnid = name.split("/")[0]
        image = read_image(self._images.get(name, self._image_root / f"{name}.JPEG"))
        if not self.annotated:
            return Sample(name, image, (_index(wnid),), about={"wnid": wnid})
        values = self._values(name)
        present = [int(i) for i in np.unique(values) if i not in (0, IGNORE)]
        if present and present[-1] > len(self._classes):
            raise DataError(
                f"{name}: number {present[-1]} in the mask of {len(self._classes)} classes; get the file again"
            )
        masks = np.stack([values == i for i in present]) if present else np.zeros((0, *values.shape), dtype=bool)
        return Sample(
            name,
            image,
            tuple(self._classes[i - 1] for i in present),
            masks,
            ignore=values == IGNORE,
            about={"wnid": wnid, "ids": present},
        )

    def _values(self, name: str) -> Int32[ndarray, "rows cols"]:
        rgb = read_numbers(self._mask_root / f"{name}.png", ("RGB",), "the number is R + 256·G; use the official PNGs")
        return rgb[..., 0].astype(np.int32) + 256 * rgb[..., 1].astype(np.int32)

    def _has_one(self, name: str) -> bool:
        try:
            return len(set(np.unique(self._values(name)).tolist()) - {0, IGNORE}) == 1
        except DataError:
            return True  # reading the sample says what is wrong


def _classes(folder: Path, number: int, categories: str | Path | None) -> tuple[int, ...]:
    """Return the ImageNet-1k indices in the order of the masks' numbers."""
    if categories is not None:
        wnids = sorted(read_lines(Path(categories)))
    else:
        parts = [folder / part for part in ("validation", "train-semi")]
        wnids = sorted({path.name for part in parts for path in part.glob("n*") if path.is_dir()})
    if len(wnids) != number:
        raise DataError(
            f"{folder} has {len(wnids)} of {number} class folders, and numbers in masks count them all; "
            f"pass categories= the official ImageNetS_categories_im{number}.txt"
        )
    return tuple(map(_index, wnids))


def _index(wnid: str) -> int:
    try:
        return imagenet_wnids().index(wnid)
    except ValueError:
        raise DataError(f"{wnid} is not a class of ImageNet-1k; check the class folders") from None
