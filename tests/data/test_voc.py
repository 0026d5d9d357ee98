"""VOC: palette numbers, void, boxes, selections, and what a wrong or broken folder says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from seewhy.data import load_data
from seewhy.data.voc import CLASSES
from seewhy.errors import DataError, ImageError, OptionError

PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"


def _xml(*objects: tuple[str, tuple[float, ...], int]) -> str:
    rows = "".join(
        f"<object><name>{kind}</name><difficult>{hard}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}"
        f"</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox>{PART}</object>"
        for kind, b, hard in objects
    )
    return f"<annotation>{rows}</annotation>"


def _palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    image.putpalette([(7 * i) % 256 for i in range(768)])
    return image


@pytest.fixture
def kit(tmp_path):
    year = tmp_path / "VOCdevkit/VOC2012"
    for part in (
        "JPEGImages",
        "Annotations",
        "SegmentationClass",
        "SegmentationObject",
        "ImageSets/Main",
        "ImageSets/Segmentation",
    ):
        (year / part).mkdir(parents=True)
    names = ("2007_000001", "2007_000002")
    for name in names:
        Image.new("RGB", (6, 4), "red").save(year / f"JPEGImages/{name}.jpg")
    for part in ("Main", "Segmentation"):
        (year / f"ImageSets/{part}/val.txt").write_text("\n".join(names) + "\n")
    (year / "ImageSets/Main/test.txt").write_text(names[0] + "\n")
    objects = np.array([[0, 1, 1, 255, 2, 2]] * 3 + [[0] * 6])
    kinds = np.where(objects == 1, 8, np.where(objects == 2, 15, objects))
    _palette(objects).save(year / f"SegmentationObject/{names[0]}.png")
    _palette(kinds).save(year / f"SegmentationClass/{names[0]}.png")
    _palette(np.minimum(objects, 1)).save(year / f"SegmentationObject/{names[1]}.png")
    _palette(np.minimum(objects, 1) * 7).save(year / f"SegmentationClass/{names[1]}.png")
    (year / f"Annotations/{names[0]}.xml").write_text(_xml(("cat", (2, 1, 3, 3), 0), ("person", (5, 1, 6, 3.5), 1)))
    (year / f"Annotations/{names[1]}.xml").write_text(_xml(("car", (1, 1, 6, 4), 0)))
    return tmp_path


@pytest.mark.parametrize("place", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_masks_are_the_palette_numbers_and_void_is_ignored(kit, place):
    item = load_data("voc", kit / place)[0]
    assert item.id == "2007_000001"
    assert [CLASSES[i] for i in item.labels] == ["cat", "person"]
    expected = np.zeros((2, 4, 6), dtype=bool)
    expected[0, :3, 1:3] = expected[1, :3, 4:6] = True
    assert (item.masks == expected).all()
    assert item.ignore.sum() == 3
    assert item.ignore[:3, 3].all()


def test_boxes_are_of_the_objects_alone_and_start_at_zero(kit):
    item = load_data("voc", kit, task="boxes")[0]
    assert item.boxes.tolist() == [[1, 0, 3, 3], [4, 0, 6, 3.5]]
    assert item.about == {"difficult": [False, True], "truncated": [False, False]}
    assert item.masks is None


def test_boxes_that_are_none_and_names_that_come_twice(kit):
    year = kit / "VOCdevkit/VOC2012"
    (year / "Annotations/2007_000001.xml").write_text(_xml(("cat", (9, 1, 3, 3), 0)))
    with pytest.raises(DataError, match="is not left, top, right, bottom"):
        load_data("voc", kit, task="boxes")[0]
    (year / "ImageSets/Segmentation/val.txt").write_text("2007_000001\n2007_000002\n2007_000001\n")
    with pytest.raises(DataError, match=r"val\.txt names '2007_000001' twice"):
        load_data("voc", kit)


@pytest.mark.parametrize(("number", "void"), [(255, 24), (0, 0)])
def test_a_picture_of_void_or_background_alone_has_no_object(kit, number, void):
    path = kit / "VOCdevkit/VOC2012/SegmentationObject/2007_000001.png"
    _palette(np.full((4, 6), number)).save(path)
    item = load_data("voc", kit)[0]
    assert (item.labels, item.masks.shape, item.ignore.sum()) == ((), (0, 4, 6), void)


def test_selections_go_by_the_classes_of_the_annotation(kit):
    assert load_data("voc", kit, single_label=True).ids == ("2007_000002",)
    assert load_data("voc", kit, without=("person",)).ids == ("2007_000002",)
    assert load_data("voc", kit, without=("car",)).ids == ("2007_000001",)


def test_a_selection_may_go_by_what_the_central_square_of_the_mask_shows(kit):
    folder = kit / "VOCdevkit/VOC2012/SegmentationClass"
    kinds = np.array([[15, 8, 8, 255, 0, 15]] * 4)  # persons at both ends of the first image, out of the square
    _palette(kinds).save(folder / "2007_000001.png")
    _palette(kinds[:, ::-1] * 0).save(folder / "2007_000002.png")
    assert load_data("voc", kit, square=224, without=("person",), single_label=True).ids == ("2007_000001",)
    assert load_data("voc", kit, square=224, without=("cat",)).ids == ("2007_000002",)
    assert load_data("voc", kit, square=2, without=("cat",)).ids == ("2007_000002",)
    _palette(kinds.repeat(3, 1)).save(folder / "2007_000001.png")  # the square: cat, cat, void, void
    assert load_data("voc", kit, square=4, without=("cat",)).ids == ("2007_000002",)
    assert load_data("voc", kit, square=1, without=("cat",)).ids == ("2007_000001", "2007_000002")  # the third: void
    with pytest.raises(OptionError, match="needs masks"):
        load_data("voc", kit, task="boxes", square=224)


def test_void_may_be_background(kit):
    item, plain = (load_data("voc", kit, void=void)[0] for void in ("background", "ignore"))
    assert item.ignore is None
    assert (item.masks == plain.masks).all()
    with pytest.raises(OptionError, match="void='object'"):
        load_data("voc", kit, void="object")


@pytest.mark.parametrize(
    ("lines", "ids"),
    [("1", (1,)), ("index\n1\n0\n", (0, 1)), ("2007_000001,\n", (0,)), ("\n2007_000002\n0", (0, 1))],
)
def test_a_list_chooses_images_by_id_or_position(kit, lines, ids):
    (kit / "chosen.csv").write_text(lines)
    every = load_data("voc", kit).ids
    assert load_data("voc", kit, ids_file=kit / "chosen.csv").ids == tuple(every[i] for i in ids)


@pytest.mark.parametrize("lines", ["0\n2", "a\nb", "0\n2007_000001", "index"])
def test_a_list_of_other_images_is_refused(kit, lines):
    (kit / "chosen.csv").write_text(lines)
    with pytest.raises(DataError, match=r"names .*(no image of the split|twice)"):
        load_data("voc", kit, ids_file=kit / "chosen.csv")


def test_a_broken_file_costs_its_own_item_only(kit):
    year = kit / "VOCdevkit/VOC2012"
    (year / "JPEGImages/2007_000001.jpg").unlink()
    (year / "SegmentationClass/2007_000002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (year / "Annotations/2007_000002.xml").write_text("<annotation>")
    masks, boxes = load_data("voc", kit), load_data("voc", kit, task="boxes")
    with pytest.raises(ImageError, match="does not exist"):
        masks[0]
    for data in (masks, boxes):
        with pytest.raises(DataError, match="get the file again"):
            data[1]


def test_colors_are_not_numbers(kit):
    path = kit / "VOCdevkit/VOC2012/SegmentationObject/2007_000001.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(DataError, match="use the official PNGs"):
        load_data("voc", kit)[0]


def test_wrong_folders_say_what_was_expected(kit, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="VOCdevkit/VOC2012/ImageSets"):
        load_data("voc", tmp_path / "empty")
    with pytest.raises(DataError, match="pass year=2012"):
        load_data("voc", kit / "VOCdevkit/VOC2012", year=2007)
    with pytest.raises(DataError, match=r"ImageSets/Segmentation/train\.txt"):
        load_data("voc", kit, split="train")
    with pytest.raises(OptionError, match="one of"):
        load_data("voc", kit, split="validation")


def test_the_test_split_of_2012_has_pictures_only(kit):
    item = load_data("voc", kit, split="test", task="boxes")[0]
    assert (item.labels, item.masks, item.boxes) == ((), None, None)


def test_real_photos_have_objects_inside_their_boxes(shared_data):
    masks, boxes = (load_data("voc", shared_data / "voc_mini", task=task) for task in ("segmentation", "boxes"))
    assert [len(item.labels) for item in masks] == [3, 6, 3, 19]
    for with_masks, with_boxes in zip(list(masks)[:3], list(boxes)[:3], strict=True):
        assert sorted(with_masks.labels) == sorted(with_boxes.labels)


def test_pictures_stay_as_stored_because_the_masks_do(kit):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(kit / "VOCdevkit/VOC2012/JPEGImages/2007_000001.jpg", exif=exif)
    assert load_data("voc", kit)[0].image.size == (6, 4)
