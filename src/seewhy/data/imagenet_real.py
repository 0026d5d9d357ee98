"""ImageNet's validation images with the ReaL labels: every class that is present, not one alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seewhy.core.cards import Requirement
from seewhy.core.imagenet import imagenet_classes
from seewhy.data.base import Dataset, Sample, check_layout, dataset
from seewhy.data.reading import check_choice, read_image, read_json
from seewhy.errors import DataError

MIN_LABELS = {"val": 0, "labeled": 1, "multi": 2}
"""ReaL labels that an image of the split has at least."""
FOLDERS = ("", "val", "ILSVRC2012_img_val")


@dataset(
    name="imagenet_real",
    title="ImageNet ReaL",
    has={Requirement.LABEL},
    splits=tuple(MIN_LABELS),
    summary="The 50 000 ImageNet validation images, each with all its classes.",
    layout=("real.json", "ILSVRC2012_val_*.JPEG, val/ILSVRC2012_val_*.JPEG or val/<wnid>/ILSVRC2012_val_*.JPEG"),
    source="image-net.org, and real.json of github.com/google-research/reassessed-imagenet",
    citation="Beyer et al., Are we done with ImageNet?, 2020",
)
class ImageNetReal(Dataset):
    """ImageNet validation with ReaL labels; entry i of real.json is of ILSVRC2012_val_{i+1:08d}.JPEG.

    Args:
        root: Holds real.json and the images: flat, in `val`, or in WordNet folders in either.
        split: `val` (all; the source of the CDAM paper's X_val), `labeled` (at least one ReaL label), or `multi`
            (at least two). The CDAM paper's X_multi is a draw from `multi` after dropping images whose labels name the
            same thing by an embedding; which 1000 were left is not published, so synonyms (notebook, laptop) are still
            in ours.
        labels: The file of the labels, where it is not root/real.json.

    Raises:
        DataError: When the folder is not laid out so.
        OptionError: When there is no such split.
    """

    class_names = imagenet_classes()

    def __init__(self, root: str | Path, split: str = "val", labels: str | Path | None = None) -> None:
        check_choice("split", split, self.card.splits)
        folder = check_layout(root, *(() if labels else ("real.json",)), card=self.card)
        self.split = split
        self._real = read_json(Path(labels) if labels else folder / "real.json")
        if not isinstance(self._real, list) or not all(map(_is_label_list, self._real)):
            raise DataError("the ReaL labels are not a list of lists of classes 0 to 999; use the official real.json")
        self._paths = _image_files(folder)
        if not self._paths:
            check_layout(folder, "ILSVRC2012_val_*.JPEG", card=self.card)
        self._rows = tuple(i for i, row in enumerate(self._real) if len(row) >= MIN_LABELS[split])
        self._ids = tuple(_name(i) for i in self._rows)

    @property
    def ids(self) -> Sequence[str]:
        """The file names without their suffix."""
        return self._ids

    def read(self, index: int) -> Sample:
        """Read a sample."""
        name = self._ids[index]
        path = self._paths.get(name, Path(f"{name}.JPEG"))
        return Sample(name, read_image(path), tuple(dict.fromkeys(self._real[self._rows[index]])))


def _is_label_list(row: object) -> bool:
    return isinstance(row, list) and all(type(i) is int and 0 <= i < 1000 for i in row)


def _name(row: int) -> str:
    return f"ILSVRC2012_val_{row + 1:08d}"


def _image_files(folder: Path) -> dict[str, Path]:
    """Return the images by name, from the first place that has any."""
    for place in FOLDERS:
        for pattern in ("ILSVRC2012_val_*.JPEG", "n*/ILSVRC2012_val_*.JPEG"):
            images = {path.stem: path for path in (folder / place).glob(pattern)}
            if images:
                return images
    return {}
