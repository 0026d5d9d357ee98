"""A folder of one's own images: masks and labels in the ways people keep them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import seewhy
from seewhy.bench.plan import Protocol
from seewhy.bench.samples import SampleBatch
from seewhy.data import load_data
from seewhy.data.masks import read_levels
from seewhy.errors import DataError, ImageError, OptionError


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _two(value: int = 2) -> np.ndarray:
    levels = np.zeros((12, 16), dtype=np.uint8)
    levels[1:4, 2:7], levels[6:11, 8:15] = 1, value
    return levels


def build(tmp_path: Path) -> tuple[Path, dict]:
    """a.jpg with two labeled objects, b.png with one."""
    _save(tmp_path / "images/a.jpg", np.full((12, 16, 3), 90, np.uint8))
    _save(tmp_path / "images/b.png", np.full((12, 16), 40, np.uint8))
    _save(tmp_path / "masks/a.png", _two())
    _save(tmp_path / "masks/b.tif", (_two() == 1).astype(np.uint8) * 255)
    (tmp_path / "labels.csv").write_text("file,label1,label2,who\nimages/a.jpg,tabby,ox,me\nb.png,ox,,me\n")
    return tmp_path, {}


def test_the_value_of_an_object_leads_to_its_label(tmp_path: Path) -> None:
    data = load_data("folder", build(tmp_path)[0])
    assert data.class_names == ("ox", "tabby")
    a, b = data
    assert (a.id, a.labels, b.id, b.labels) == ("a.jpg", (1, 0), "b.png", (0,))
    assert (a.masks == [_two() == 1, _two() == 2]).all()
    assert a.boxes.tolist() == [[2, 1, 7, 4], [8, 6, 15, 11]]
    assert (b.masks == [_two() == 1]).all()
    assert load_data("folder", tmp_path, classes="imagenet")[0].labels == (281, 345)


def test_values_that_do_not_fit_the_labels_are_told(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    _save(root / "masks/a.png", _two(3))
    with pytest.raises(DataError, match=r"\[1, 3\] for 2 labels"):
        load_data("folder", root)[0]
    (root / "labels.csv").write_text("file,label\na.jpg,\nb.png,ox\n")
    with pytest.raises(DataError, match="for 0 labels"):
        load_data("folder", root)[0]


def test_folders_as_classes(tmp_path: Path) -> None:
    for name in ("n02123045/x.png", "n02403003/y.png"):
        _save(tmp_path / "images" / name, np.zeros((4, 5, 3), np.uint8))
    plain = load_data("folder", tmp_path)
    assert (plain.class_names, plain[1].labels, plain[1].masks) == (("n02123045", "n02403003"), (1,), None)
    named = load_data("folder", tmp_path, classes="imagenet")
    assert [item.labels for item in named] == [(281,), (345,)]
    assert [item.labels for item in load_data("folder", tmp_path / "images")] == [(0,), (1,)]


def test_masks_without_labels_are_objects(tmp_path: Path) -> None:
    _save(tmp_path / "x.png", np.zeros((12, 16, 3), np.uint8))
    _save(tmp_path / "y.png", np.zeros((12, 16, 3), np.uint8))
    _save(tmp_path / "masks/x.png", _two(255))
    data = load_data("folder", tmp_path)
    assert (data.ids, data.class_names) == (("x.png", "y.png"), ("object",))
    assert (data[0].labels, data[1].labels, data[1].masks) == ((0, 0), (), None)
    smooth = np.zeros((64, 64), np.uint8)
    smooth[16:48, 16:48] = 255
    _save(tmp_path / "y.png", np.zeros((64, 64, 3), np.uint8))
    _save(tmp_path / "masks/y.jpg", smooth)  # its edges are gray now
    assert (load_data("folder", tmp_path)[1].masks == [smooth == 255]).all()


def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        load_data("folder", tmp_path)
    root, _ = build(tmp_path)
    with pytest.raises(DataError, match="none of the 1 classes"):
        load_data("folder", root, classes=["tabby"])
    with pytest.raises(OptionError, match="classes='imagnet'"):
        load_data("folder", root, classes="imagnet")
    _save(root / "masks/b.tif", np.zeros((3, 3), np.uint8) + 255)
    with pytest.raises(DataError, match="belong together"):
        load_data("folder", root)[1]
    (root / "images/b.png").write_bytes(b"broken")
    with pytest.raises(ImageError):
        load_data("folder", root)[1]
    assert load_data("folder", root)[0].id == "a.jpg"
    (root / "labels.csv").write_text("file,label\nc.png,ox\n")
    with pytest.raises(DataError, match=r"line 2: there is no image 'c\.png'"):
        load_data("folder", root)
    (root / "labels.csv").write_text("image,label\na.jpg,ox\n")
    with pytest.raises(DataError, match="it needs file, separated by commas"):
        load_data("folder", root)


def test_tables_that_cannot_be_meant_are_told(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    for text, says in [
        ("file,label\na.jpg,ox\nimages/a.jpg,tabby\n", "names 'a.jpg' twice"),
        ("file,label\n", "has no rows"),
        ("file,kind\na.jpg,ox\n", "it needs label"),
        ("", "has the columns none"),
        ("file;label\na.jpg;ox\n", "separated by commas"),
    ]:
        (root / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=says):
            load_data("folder", root)
    (root / "labels.csv").write_bytes("file,label\na.jpg,Kätzchen\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as CSV in UTF-8"):
        load_data("folder", root)
    (root / "labels.csv").write_text("file,label\nb.png,ox,more,cells\n")
    assert load_data("folder", root)[0].labels == (0,)


def test_masks_that_cannot_be_meant_are_told(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    soft = np.zeros((12, 16), np.uint8)
    soft[2:10, 2:14] = np.linspace(20, 255, 96).astype(np.uint8).reshape(8, 12)
    _save(root / "masks/b.tif", soft)
    with pytest.raises(DataError, match="96 values, as soft edges do"):
        load_data("folder", root)[1]
    _save(root / "masks/b.png", _two())
    with pytest.raises(DataError, match="names 'b' twice"):
        load_data("folder", root)[1]


def test_any_picture_of_any_name(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    mask = np.zeros((12, 16), np.uint8)
    mask[2:5, 3:9] = 255
    _save(tmp_path / "masks/ü 猫/grau.PNG", mask)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images/ü 猫").mkdir(parents=True)
    for name, image, options in [
        ("grau.JPG", Image.fromarray(rgb[..., 0]), {}),
        ("viele.tif", Image.new("CMYK", (16, 12)), {}),
        ("tief.PNG", Image.fromarray(rgb[..., 0].astype(np.uint16) * 257), {}),
        ("hoch.jpg", Image.fromarray(rgb), {"exif": exif}),
    ]:
        image.save(tmp_path / "images/ü 猫" / name, **options)
    _save(tmp_path / "masks/ü 猫/hoch.png", np.ascontiguousarray(mask.T))  # drawn on the image as it is shown
    items = {item.id.split("/")[1]: item for item in load_data("folder", tmp_path)}
    assert {name: item.image.size for name, item in items.items()} == {
        "grau.JPG": (16, 12),
        "hoch.jpg": (12, 16),
        "tief.PNG": (16, 12),
        "viele.tif": (16, 12),
    }
    assert all(item.image.mode == "RGB" for item in items.values())
    assert (np.asarray(items["tief.PNG"].image) == rgb[..., :1]).all()
    assert items["grau.JPG"].masks.sum() == items["hoch.jpg"].masks.sum() == 18


def test_16_bits_reach_the_model(tmp_path: Path) -> None:
    levels = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    (tmp_path / "images").mkdir()
    Image.fromarray(levels).save(tmp_path / "images/ct.png")
    data = load_data("folder", tmp_path)
    sample = data[0]
    assert sample.image.mode == "RGB"
    np.testing.assert_array_equal(sample.pixels.values[..., 0], levels)
    recipe = seewhy.Preprocess((32, 32), resize=None, mean=(0,), std=(1,), levels=(0, 1023))
    model = seewhy.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 2)), preprocess=recipe)
    batch = SampleBatch(model, data, Protocol(), None, [(0, sample)])
    np.testing.assert_allclose(batch.x[0, 0].numpy(), levels / np.float32(1023), rtol=1e-6)


def test_a_mask_that_is_postscript_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(DataError, match="UnidentifiedImageError"):
        read_levels(tmp_path / "mask.png")


def test_the_cut_outs_beside_the_checkout(shared_data: Path) -> None:
    root = shared_data / "cutouts"
    data = load_data("folder", root, classes="imagenet")
    rows = list(csv.DictReader((root / "labels.csv").open()))
    assert len(data) == len(rows) == 100
    for item, row in zip(data[50:70], rows[50:70], strict=True):
        n = int(row["n_objects"])
        assert item.labels == tuple(int(row[f"class{k}_index"]) for k in range(1, n + 1))
        assert item.boxes.tolist() == [list(map(float, row[f"box{k}"].split())) for k in range(1, n + 1)]
        assert item.masks.mean((1, 2)) == pytest.approx([float(row[f"area{k}"]) for k in range(1, n + 1)], abs=1e-3)
    own = load_data("folder", root)
    assert [own.class_names[k] for k in own[99].labels] == [data.class_names[k] for k in data[99].labels]
