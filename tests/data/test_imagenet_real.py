"""ReaL labels go with the number in the file's name, wherever the images lie."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from seewhy.data import load_data
from seewhy.errors import DataError, ImageError

LABELS = [[5], [], [3, 7], [9, 9, 1]]


@pytest.fixture(params=["", "val", "val/n01440764", "n01440764"])
def root(request, tmp_path):
    (tmp_path / request.param).mkdir(parents=True, exist_ok=True)
    (tmp_path / "real.json").write_text(json.dumps(LABELS))
    for number in (1, 2, 3):
        Image.new("RGB", (number, 2)).save(tmp_path / request.param / f"ILSVRC2012_val_{number:08d}.JPEG")
    return tmp_path


def test_splits_and_labels(root):
    data = load_data("imagenet_real", root)
    assert [(item.image.width, item.labels) for item in data[:3]] == [(1, (5,)), (2, ()), (3, (3, 7))]
    assert load_data("imagenet_real", root, "labeled").ids[1] == "ILSVRC2012_val_00000003"
    multi = load_data("imagenet_real", root, "multi")
    assert multi.ids == ("ILSVRC2012_val_00000003", "ILSVRC2012_val_00000004")
    with pytest.raises(ImageError, match="ILSVRC2012_val_00000004"):
        multi[1]


def test_wrong_folders(root, tmp_path):
    (tmp_path / "real.json").write_text("[[1000]]")
    with pytest.raises(DataError, match=r"official real\.json"):
        load_data("imagenet_real", root)
    (tmp_path / "real.json").unlink()
    with pytest.raises(DataError, match=r"no real\.json"):
        load_data("imagenet_real", root)
