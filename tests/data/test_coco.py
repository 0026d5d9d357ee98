"""COCO: polygons and run lengths, crowd as ignore, boxes, and the list of COCO20k."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from seewhy.data import load_data
from seewhy.errors import DataError, ImageError

pytest.importorskip("pycocotools")

ROWS = [
    {
        "id": 1,
        "image_id": 9,
        "category_id": 18,
        "iscrowd": 0,
        "bbox": [1, 1, 3, 2],
        "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]],
    },
    {
        "id": 2,
        "image_id": 9,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [5, 0, 1, 4],  # by columns: 20 out, 4 in
        "segmentation": {"counts": [20, 4], "size": [4, 6]},
    },
    {
        "id": 3,
        "image_id": 9,
        "category_id": 1,
        "iscrowd": 1,
        "bbox": [0, 0, 2, 4],
        "segmentation": {"counts": [0, 8, 16], "size": [4, 6]},
    },
    {"id": 4, "image_id": 9, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 0, 0], "segmentation": [[1, 1, 2, 2]]},
]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2014").mkdir()
    images = [
        {"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 4, "width": 6, "license": 1} for n in (9, 2)
    ]
    about = {
        "images": images,
        "annotations": ROWS,
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }
    (tmp_path / "annotations/instances_train2014.json").write_text(json.dumps(about))
    Image.new("RGB", (6, 4)).save(tmp_path / "train2014/COCO_train2014_000000000009.jpg")
    return tmp_path


def test_masks_boxes_and_crowd(root):
    data = load_data("coco", root, "train2014")
    assert data.ids == ("2", "9")
    assert data.class_names == ("person", "dog")
    item = data[1]
    assert item.labels == (1, 0)
    expected = np.zeros((2, 4, 6), dtype=bool)
    expected[0, 1:3, 1:4] = expected[1, :, 5] = True
    assert (item.masks == expected).all()
    crowd = np.zeros((4, 6), dtype=bool)
    crowd[:, :2] = True
    assert (item.ignore == crowd & ~expected.any(0)).all()
    assert item.boxes.tolist() == [[1, 1, 4, 3], [5, 0, 6, 4]]
    assert item.about == {"annotation_ids": [1, 2], "without_mask": 1}
    with pytest.raises(ImageError, match="000000000002"):
        data[0]


def test_the_official_string_form_of_run_lengths(root):
    from pycocotools import mask

    wanted = np.zeros((4, 6), dtype=np.uint8, order="F")
    wanted[2:, 3:] = 1
    code = mask.encode(wanted)
    path = root / "annotations/instances_train2014.json"
    about = json.loads(path.read_text())
    about["annotations"] = [{**ROWS[0], "segmentation": {"size": [4, 6], "counts": code["counts"].decode()}}]
    path.write_text(json.dumps(about))
    assert (load_data("coco", root, "train2014")[1].masks[0] == wanted.astype(bool)).all()


def test_a_list_of_names_chooses_and_orders(root, tmp_path):
    names = tmp_path / "coco_20k_filenames.txt"
    names.write_text("train2014/COCO_train2014_000000000009.jpg\ntrain2014/COCO_train2014_000000000002.jpg\n")
    assert load_data("coco", root, "train2014", ids_file=names).ids == ("9", "2")
    names.write_text("77\n")
    with pytest.raises(DataError, match="'77' is not an image of train2014"):
        load_data("coco", root, "train2014", ids_file=names)
    names.write_text("9\n2\n9\n")
    with pytest.raises(DataError, match="names '9' twice"):
        load_data("coco", root, "train2014", ids_file=names)


def test_boxes_alone_decode_nothing(root):
    item = load_data("coco", root, "train2014", task="boxes")[1]
    assert item.masks is None
    assert item.boxes.shape == (3, 4)


def test_wrong_folders_and_broken_annotations(root):
    with pytest.raises(DataError, match=r"annotations/instances_val2017\.json"):
        load_data("coco", root)
    path = root / "annotations/instances_train2014.json"
    path.write_text(path.read_text().replace('"category_id": 18', '"category_id": 5'))
    with pytest.raises(DataError, match="broken annotation"):
        load_data("coco", root, "train2014")[1]
    for broken in (
        {"counts": "no runs", "size": [4, 6]},
        {"counts": [20, 400], "size": [4, 6]},
        {"counts": [20, 4], "size": [6, 4]},
    ):
        rows = [{**ROWS[0], "segmentation": broken}]
        path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": rows}))
        with pytest.raises(DataError, match="broken annotation"):
            load_data("coco", root, "train2014")[1]
    path.write_text(path.read_text().replace('{"counts": [20, 4], "size": [6, 4]}', '[[1, "a", 2, 2, 3, 3]]'))
    with pytest.raises(DataError, match="cannot be read as JSON"):
        load_data("coco", root, "train2014")
    path.write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        load_data("coco", root, "train2014")
