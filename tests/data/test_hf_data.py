"""Hugging Face datasets, in memory and from disk."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seewhy.data import load_data
from seewhy.data.hf import HFDataset
from seewhy.errors import DataError, ImageError, OptionError

datasets = pytest.importorskip("datasets")


def _png(array: np.ndarray) -> dict:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _levels() -> np.ndarray:
    levels = np.zeros((12, 16), dtype=np.uint8)
    levels[1:4, 2:7], levels[6:11, 8:15], levels[0, 0] = 1, 2, 255
    return levels


def rows(broken: bool = False):
    """Three rows: two objects, none, one; the second image may be broken."""
    images = [_png(np.full((12, 16, 3), v, np.uint8)) for v in (10, 20, 30)]
    if broken:
        images[1] = {"bytes": b"no image", "path": None}
    one = np.where(_levels() == 2, 1, 0).astype(np.uint8)
    return datasets.Dataset.from_dict(
        {
            "image": images,
            "label": [1, 0, 1],
            "annotation": [_png(_levels()), _png(0 * one), _png(one)],
            "objects": [
                {"bbox": [[2, 1, 5, 3], [8, 6, 70, 5]], "category": [0, 1]},
                {"bbox": [], "category": []},
                {"bbox": [[8, 6, 7, 5]], "category": [1]},
            ],
        },
        datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["cat", "dog"]),
                "annotation": datasets.Image(),
                "objects": {
                    "bbox": datasets.List(datasets.List(datasets.Value("float32"), 4)),
                    "category": datasets.List(datasets.ClassLabel(names=["cat", "dog"])),
                },
            }
        ),
    )


def build(tmp_path: Path) -> tuple[Path, dict]:
    """The rows as the split `validation` of a folder that save_to_disk wrote."""
    datasets.DatasetDict({"validation": rows()}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved", {"mask": "annotation", "ignore": 255, "label": ("objects", "category")}


def test_classes_of_a_saved_dataset(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    data = load_data("hf", root)
    assert (data.class_names, data.split, data.ids[2]) == (("cat", "dog"), "validation", "validation-2")
    assert [item.labels for item in data] == [(1,), (0,), (1,)]
    assert np.asarray(data[1].image)[0, 0].tolist() == [20] * 3
    rows().save_to_disk(tmp_path / "alone")
    assert load_data("hf", tmp_path / "alone").ids == ("0", "1", "2")


def test_masks_of_objects(tmp_path: Path) -> None:
    root, options = build(tmp_path)
    first, second, third = load_data("hf", root, "validation", **options)
    assert (first.labels, second.labels, third.labels) == ((0, 1), (), (1,))
    assert (first.masks == [_levels() == 1, _levels() == 2]).all()
    assert (first.ignore == (_levels() == 255)).all()
    assert first.boxes.tolist() == [[2, 1, 7, 4], [8, 6, 15, 11]]
    assert len(second.masks) == len(second.boxes) == 0
    with pytest.raises(DataError, match="3 objects and 2 labels"):
        load_data("hf", root, **options | {"ignore": None})[0]
    assert load_data("hf", root, mask="annotation", ignore=255)[0].labels == (1, 1)  # the picture's label is both's


def test_masks_of_classes() -> None:
    data = HFDataset(rows(), mask="annotation", mask_values="classes", ignore=255)
    assert [item.labels for item in data] == [(0, 1), (), (0,)]
    with pytest.raises(DataError, match="number 255 of 2 classes"):
        HFDataset(rows(), mask="annotation", mask_values="classes")[0]


def test_boxes_end_at_the_edge_and_objects_may_be_a_list_of_dicts() -> None:
    data = HFDataset(rows(), boxes=("objects", "bbox"), label=("objects", "category"))
    assert data[0].boxes.tolist() == [[2, 1, 7, 4], [8, 6, 16, 11]]
    assert (data[0].labels, data[0].masks) == ((0, 1), None)
    kinds = {"bbox": datasets.List(datasets.Value("int64")), "kind": datasets.Value("string")}
    listed = datasets.Dataset.from_dict(
        {
            "image": [_png(np.zeros((9, 9, 3), np.uint8))],
            "objects": [[{"bbox": [1, 2, 5, 6], "kind": "b"}, {"bbox": [0, 0, 9, 9], "kind": "a"}]],
        },
        datasets.Features({"image": datasets.Image(), "objects": datasets.List(kinds)}),
    )
    item = HFDataset(listed, boxes=("objects", "bbox"), label=("objects", "kind"), box_format="xyxy")[0]
    assert (item.boxes.tolist(), item.labels) == ([[1, 2, 5, 6], [0, 0, 9, 9]], (1, 0))
    assert HFDataset(listed, boxes=("objects", "bbox")).class_names == ("object",)


def test_withheld_labels_are_none() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    data = HFDataset(datasets.Dataset.from_dict({"image": [_png(_levels())], "label": [-1]}, features))
    assert data[0].labels == ()


def test_a_broken_picture_costs_its_own_item() -> None:
    data = HFDataset(rows(broken=True))
    with pytest.raises(ImageError, match="image of 1"):
        data[1]
    assert [data[0].labels, data[2].labels] == [(1,), (1,)]


def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    with pytest.raises(DataError, match=r"nothing is downloaded.*save_to_disk"):
        load_data("hf", "uoft-cs/cifar10")
    with pytest.raises(DataError, match=r"state\.json"):
        load_data("hf", tmp_path)
    with pytest.raises(OptionError, match="choose from validation"):
        load_data("hf", root, "train")
    with pytest.raises(DataError, match="did you mean 'image'"):
        load_data("hf", root, image="imag")
    with pytest.raises(OptionError, match="box_format"):
        load_data("hf", root, box_format="cxcywh")
    with pytest.raises(DataError, match="list is not a"):
        HFDataset([1, 2])
    with pytest.raises(DataError, match="IterableDataset is not a"):
        HFDataset(rows().to_iterable_dataset())
    boxes = datasets.Dataset.from_dict(
        {"image": [_png(_levels())], "box": [[[5.0, 1, 2, 3]]]},
        datasets.Features({"image": datasets.Image(), "box": datasets.List(datasets.List(datasets.Value("float32")))}),
    )
    with pytest.raises(DataError, match="is not left, top, right, bottom"):
        HFDataset(boxes, boxes="box", box_format="xyxy")[0]


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, seewhy.data; print(sys.modules.keys() & {'datasets', 'pyarrow', 'pydicom', 'pandas'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
