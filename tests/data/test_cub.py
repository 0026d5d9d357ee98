"""CUB-200-2011 as its two archives unpack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seewhy.data import load_data
from seewhy.errors import DataError, ImageError, OptionError

NAMES = [
    "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18",
    "001.Black_footed_Albatross/Black_Footed_B_2",
    "002.Laysan_Albatross/Laysan_Albatross_0003_1",
]
LEVELS = np.array([0, 51, 102, 153, 204, 255], dtype=np.uint8)


def build(tmp_path: Path) -> tuple[Path, dict]:
    """Three birds in the official layout: two classes, two for testing; images 30 wide and 20 high."""
    root = tmp_path / "CUB_200_2011"
    numbered = lambda values: "".join(f"{i} {value}\n" for i, value in enumerate(values, 1))  # noqa: E731
    classes = sorted({name.split("/")[0] for name in NAMES})
    files = {
        "images.txt": numbered(f"{name}.jpg" for name in NAMES),
        "image_class_labels.txt": numbered([1, 1, 2]),
        "train_test_split.txt": numbered([0, 1, 0]),
        "classes.txt": numbered(classes),
        "bounding_boxes.txt": numbered(["4.0 2.0 12.0 10.0", "1.0 1.0 5.0 5.0", "20.0 10.0 12.0 10.0"]),
        "parts/parts.txt": numbered(["back", "left eye"]),
        "parts/part_locs.txt": "1 1 5.0 6.0 1\n1 2 0.0 0.0 0\n3 2 22.0 12.5 1\n",
    }
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    for k, name in enumerate(NAMES):
        levels = np.zeros((20, 30), dtype=np.uint8)
        levels[3:9, 5:11] = LEVELS if k == 0 else 255
        if k == 2:
            levels = np.roll(levels, (9, 17), (0, 1))
        for folder, suffix, image in (
            ("images", "jpg", Image.new("RGB", (30, 20), (k * 50, 90, 30))),
            ("segmentations", "png", Image.fromarray(levels)),
        ):
            path = root / folder / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return root, {}


def test_the_birds_of_the_test_split(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    birds = load_data("cub", root)
    assert birds.ids == (NAMES[0], NAMES[2])
    assert birds.class_names == ("Black footed Albatross", "Laysan Albatross")
    first, second = birds
    assert (first.labels, second.labels) == ((0,), (1,))
    assert first.boxes.tolist() == [[4, 2, 16, 12]]
    assert second.boxes.tolist() == [[20, 10, 30, 20]]  # the published one sticks out
    assert first.about == {"parts": {"back": [5.0, 6.0]}}
    assert load_data("cub", root, split="train").ids == (NAMES[1],)


def test_a_mask_is_where_three_of_five_annotators_saw_bird(tmp_path: Path) -> None:
    mask = load_data("cub", build(tmp_path)[0])[0].masks[0]
    wanted = np.zeros((20, 30), dtype=bool)
    wanted[3:9, 8:11] = True
    assert (mask == wanted).all()


def test_masks_beside_the_folder_and_masks_with_a_second_channel(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    (root / "segmentations").rename(tmp_path / "segmentations")
    path = tmp_path / "segmentations" / f"{NAMES[2]}.png"
    Image.open(path).convert("LA").save(path)
    assert load_data("cub", tmp_path)[1].masks.sum() == 36


def test_without_the_second_archive_there_are_no_masks(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    (root / "segmentations").rename(tmp_path / "elsewhere")
    item = load_data("cub", root)[0]
    assert item.masks is None
    assert len(item.boxes) == 1


def test_a_turned_photo_stays_as_its_annotators_saw_it(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(root / "images" / f"{NAMES[0]}.jpg", exif=exif)
    assert load_data("cub", root)[0].image.size == (30, 20)


def test_one_broken_picture_costs_only_itself(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    (root / "images" / f"{NAMES[0]}.jpg").write_bytes(b"no image")
    (root / "segmentations" / f"{NAMES[2]}.png").write_bytes(b"no mask")
    birds = load_data("cub", root)
    with pytest.raises(ImageError):
        birds[0]
    with pytest.raises(DataError, match="cannot be read"):
        birds[1]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("images.txt", b"\xff\xfe", "cannot be read"),
        ("images.txt", b"1\n", "each needs a number and a value"),
        ("bounding_boxes.txt", b"1 nan 2 3 4\n3 1 2 3 4\n", "is not left, top, right, bottom"),
        ("bounding_boxes.txt", b"1 a b c d\n3 1 2 3 4\n", "its class or box is not a number"),
        ("image_class_labels.txt", b"1 77\n3 2\n", "its class or box is not a number"),
        ("parts/part_locs.txt", b"1 1 x\n", "has the line '1 1 x'"),
        ("parts/part_locs.txt", b"1 9 1 2 1\n", "unpack the archive again"),
    ],
)
def test_broken_lists_are_told(tmp_path: Path, file: str, text: bytes, says: str) -> None:
    root, _ = build(tmp_path)
    (root / file).write_bytes(text)
    with pytest.raises(DataError, match=says):
        load_data("cub", root)[0]


def test_wrong_folders_and_splits(tmp_path: Path) -> None:
    root, _ = build(tmp_path)
    with pytest.raises(OptionError, match="test, train"):
        load_data("cub", root, split="val")
    (root / "bounding_boxes.txt").unlink()
    with pytest.raises(DataError, match=r"bounding_boxes\.txt"):
        load_data("cub", root)
