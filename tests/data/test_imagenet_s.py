"""ImageNet-S: numbers above 255, 1000 never an object, labels in ImageNet-1k terms."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from seewhy.core.imagenet import imagenet_classes, imagenet_wnids
from seewhy.data import load_data
from seewhy.errors import DataError, ImageError

CHOSEN = imagenet_wnids()[100:400]  # id k is ImageNet's class 99 + k


def _mask(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([values % 256, values // 256, np.zeros_like(values)], -1).astype(np.uint8))


@pytest.fixture
def root(tmp_path):
    top = tmp_path / "imagenet-s/ImageNetS300"
    for wnid in CHOSEN:
        (top / "validation" / wnid).mkdir(parents=True)
    rows = {
        f"{CHOSEN[0]}/ILSVRC2012_val_00000001": [[1, 1, 0], [1000, 0, 0]],
        f"{CHOSEN[256]}/ILSVRC2012_val_00000002": [[257, 0, 2], [0, 1000, 1000]],
    }
    for name, values in rows.items():
        (top / "validation-segmentation" / name).parent.mkdir(parents=True)
        Image.new("RGB", (3, 2), "blue").save(top / "validation" / f"{name}.JPEG")
        _mask(np.array(values)).save(top / "validation-segmentation" / f"{name}.png")
    return tmp_path / "imagenet-s"


def test_numbers_become_classes_of_imagenet(root):
    one, two = load_data("imagenet_s", root, classes=300)
    assert one.labels == (100,)
    assert one.masks.tolist() == [[[True, True, False], [False] * 3]]
    assert one.ignore.tolist() == [[False] * 3, [True, False, False]]
    assert two.labels == (101, 356)
    assert two.masks[1].tolist() == [[True, False, False], [False] * 3]
    assert two.ignore.sum() == 2
    assert load_data("imagenet_s", root / "ImageNetS300", classes=300).class_names == imagenet_classes()


def test_one_number_counts_neither_background_nor_ignore(root):
    assert load_data("imagenet_s", root, classes=300, single_id=True).ids == (f"{CHOSEN[0]}/ILSVRC2012_val_00000001",)


def test_missing_class_folders_need_the_official_list(root, tmp_path):
    (root / "ImageNetS300/validation" / CHOSEN[5]).rmdir()
    with pytest.raises(DataError, match=r"299 of 300 .* ImageNetS_categories_im300\.txt"):
        load_data("imagenet_s", root, classes=300)
    (tmp_path / "list.txt").write_text("\n".join(reversed(CHOSEN)))
    assert load_data("imagenet_s", root, classes=300, categories=tmp_path / "list.txt")[1].labels == (101, 356)


def test_broken_items_and_wrong_folders(root, tmp_path):
    top = root / "ImageNetS300"
    (top / f"validation-segmentation/{CHOSEN[0]}/ILSVRC2012_val_00000001.png").unlink()
    (top / f"validation/{CHOSEN[256]}/ILSVRC2012_val_00000002.JPEG").unlink()
    data = load_data("imagenet_s", root, classes=300)
    with pytest.raises(DataError, match="does not exist"):
        data[0]
    with pytest.raises(ImageError, match="does not exist"):
        data[1]
    with pytest.raises(DataError, match="validation-segmentation"):
        load_data("imagenet_s", tmp_path)


def test_a_number_beyond_the_classes_is_an_error(root):
    _mask(np.full((2, 3), 301)).save(
        root / f"ImageNetS300/validation-segmentation/{CHOSEN[0]}/ILSVRC2012_val_00000001.png"
    )
    with pytest.raises(DataError, match="number 301"):
        load_data("imagenet_s", root, classes=300)[0]
