"""Every registered data set keeps its contract on a fixture of its layout; and each check finds its saboteur."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seewhy.checks import DATASET_CHECKS, ContractError, check_dataset
from seewhy.core.boxes import masks_to_boxes
from seewhy.core.cards import Requirement
from seewhy.data import DATASETS, Dataset, Sample, load_data
from seewhy.data.base import check_layout, dataset
from seewhy.errors import DataError

sys.path.append(str(Path(__file__).parents[1] / "data"))
from test_imagenet_s import root as imagenet_s_root  # noqa: F401 (fixtures of the readers' own tests)
from test_voc import kit as voc_root  # noqa: F401

CHECKS = dict(DATASET_CHECKS)


def builder(module: str) -> Callable:
    """`build(tmp_path) -> (root, options)` of the data set's own tests, which skip without its extra."""
    return lambda tmp_path, _: importlib.import_module(module).build(tmp_path)


def imagenet_real(tmp_path: Path, _: pytest.FixtureRequest) -> tuple[Path, dict]:
    (tmp_path / "real.json").write_text(json.dumps([[5], [], [3, 7]]))
    for number in (1, 2, 3):
        Image.new("RGB", (number, 2)).save(tmp_path / f"ILSVRC2012_val_{number:08d}.JPEG")
    return tmp_path, {}


def coco(tmp_path: Path, _: pytest.FixtureRequest) -> tuple[Path, dict]:
    pytest.importorskip("pycocotools")
    rows = importlib.import_module("test_coco").ROWS
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    about = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "height": 4, "width": 6, "license": 1}],
        "annotations": rows,
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(about))
    Image.new("RGB", (6, 4)).save(tmp_path / "val2017/000000000009.jpg")
    return tmp_path, {}


FIXTURES: dict[str, Callable] = {
    "scenes": lambda tmp_path, _: (None, {"split": "shortcut", "n": 5}),
    "voc": lambda _, request: (request.getfixturevalue("voc_root"), {}),
    "imagenet_s": lambda _, request: (request.getfixturevalue("imagenet_s_root"), {"classes": 300}),
    "imagenet_real": imagenet_real,
    "coco": coco,
    "cub": builder("test_cub"),
    "lidc": builder("test_lidc"),
    "folder": builder("test_folder"),
    "hf": builder("test_hf_data"),
    "nodules": lambda *_: (None, {"n": 3}),
}


@pytest.mark.parametrize("name", DATASETS.names())
def test_dataset(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert name in FIXTURES, "write a fixture of the new data set's layout"
    root, options = FIXTURES[name](tmp_path, request)
    check_dataset(load_data(name, root, **options))


# ── saboteurs ─────────────────────────────────────────────────────────────────────────────────────────────────────────
CARD = {
    "name": "blocks",
    "title": "Blocks",
    "summary": "Blocks.",
    "splits": ("all",),
    "layout": ("blocks.txt",),
    "has": {Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    "source": "the tests",
    "citation": "none",
}


@dataset(register=False, **CARD)
class Blocks(Dataset):
    """Three images of two blocks each."""

    class_names = ("left", "right")

    def __init__(self, root: str | Path) -> None:
        self.root = check_layout(root, "blocks.txt", card=self.card)

    @property
    def ids(self) -> tuple[str, ...]:
        return ("a", "b", "c")

    def read(self, index: int) -> Sample:
        masks = np.zeros((2, 10, 12), dtype=bool)
        masks[0, 1:5, 1 + index : 6] = masks[1, 6:9, 7:11] = True
        return Sample(
            self.ids[index],
            Image.new("RGB", (12, 10), (index, 9, 9)),
            (0, 1),
            masks,
            masks_to_boxes(masks),
            ~masks.any(0) & (np.arange(12) == 0),
            {"number": index},
        )


def item(**change) -> type[Blocks]:
    """Blocks whose items have something else in some field; a function is given the item."""

    class Changed(Blocks):
        def read(self, index):
            made = super().read(index)
            for name, value in change.items():
                object.__setattr__(made, name, value(made) if callable(value) else value)
            return made

    return Changed


def card(**change) -> type[Blocks]:
    return type("Carded", (Blocks,), {"card": dataclasses.replace(Blocks.card, **change)})


class Remembers(Blocks):
    seen = 0

    def read(self, index):
        self.seen += 1
        return dataclasses.replace(super().read(index), about={"reading": self.seen})


class Keeps(Blocks):
    def __init__(self, root):
        super().__init__(root)
        self._kept = {}

    def read(self, index):
        return self._kept.setdefault(index, super().read(index))


class Draws(Blocks):
    def read(self, index):
        np.random.rand()
        return super().read(index)


class Wraps(Blocks):
    def __getitem__(self, index):
        return self.read(index % 3) if isinstance(index, int) else [self.read(i) for i in range(3)[index]]


class FromTheEnd(Blocks):
    def __getitem__(self, index):
        return super().__getitem__(-1 - index if isinstance(index, int) and index < 0 else index)


class SlicesTuples(Blocks):
    def __getitem__(self, index):
        found = super().__getitem__(index)
        return tuple(found) if isinstance(index, slice) else found


class NoFolder(Blocks):
    def __init__(self, root):
        self.root = Path(root)


class OpensAnything(Blocks):
    def __init__(self, root):
        (Path(root) / "blocks.txt").read_text()


class SaysNothing(Blocks):
    def __init__(self, root):
        if not (Path(root) / "blocks.txt").is_file():
            raise DataError("this does not work")


SABOTEURS = [
    ("check_dataset_card", card(summary=""), "summary is empty"),
    ("check_dataset_card", card(summary="blocks"), "not one sentence"),
    ("check_dataset_card", card(splits=("all", "all")), "names one twice"),
    (
        "check_ids_unique",
        type("Same", (Blocks,), {"ids": ("a", "a", "c"), "read": lambda self, i: Blocks.read(self, i)}),
        "two samples have one id",
    ),
    ("check_ids_unique", item(id="x"), "calls itself 'x'"),
    ("check_ids_unique", type("Long", (Blocks,), {"__len__": lambda self: 2}), "3 ids for 2 samples"),
    ("check_sequence_indexing", Wraps, "raises no IndexError"),
    ("check_sequence_indexing", FromTheEnd, "sample -3"),
    ("check_sequence_indexing", SlicesTuples, "not the list"),
    ("check_reading_order_invariance", Remembers, "is another after others"),
    ("check_samples_not_shared", Keeps, "give copies"),
    ("check_random_state_untouched", Draws, "global random state"),
    ("check_image_rgb", item(image=lambda i: i.image.convert("L")), "mode is L"),
    ("check_labels", item(labels=(0, 2)), "out of the range"),
    ("check_labels", item(labels=[0, 1]), "no tuple of ints"),
    ("check_labels", item(labels=(0, 0), masks=None, boxes=None), "twice without objects"),
    ("check_labels", type("Twins", (Blocks,), {"class_names": ("x", "x")}), "one name"),
    ("check_masks_match_image", item(masks=lambda i: i.masks.astype(np.uint8)), "no booleans"),
    ("check_masks_match_image", item(masks=lambda i: i.masks.transpose(0, 2, 1)), "shape is"),
    ("check_masks_match_image", item(masks=lambda i: i.masks & False), "all masks are empty"),
    ("check_boxes_in_image", item(boxes=lambda i: i.boxes.astype(int)), "no floats"),
    ("check_boxes_in_image", item(boxes=lambda i: i.boxes + 5), "leaves the image"),
    ("check_boxes_in_image", item(boxes=lambda i: i.boxes[:, [2, 1, 0, 3]]), "ends before it begins"),
    ("check_boxes_in_image", item(boxes=lambda i: i.boxes * np.nan), "not finite"),
    ("check_boxes_contain_masks", item(boxes=lambda i: i.boxes[:, [1, 0, 3, 2]]), "lies in its box"),
    ("check_boxes_contain_masks", item(boxes=lambda i: i.boxes[::-1]), "0% of mask 0"),
    ("check_ignore_disjoint_from_masks", item(ignore=lambda i: i.masks[0]), "ignored pixels are in a mask"),
    ("check_ignore_disjoint_from_masks", item(ignore=lambda i: i.ignore.astype(int)), "no boolean"),
    ("check_about_json", item(about={"mean": np.float32(1)}), "no JSON"),
    ("check_about_json", item(about={"mean": float("nan")}), "no JSON"),
    ("check_about_json", item(about={"pair": (1, 2)}), "not the same after JSON"),
    ("check_missing_root_error", NoFolder, "raises no DataError"),
    ("check_missing_root_error", OpensAnything, "FileNotFoundError"),
    ("check_missing_root_error", SaysNothing, "names none of the expected files"),
]


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    (tmp_path / "blocks.txt").touch()
    return tmp_path


def test_an_honest_data_set_passes_every_check(blocks: Path) -> None:
    assert check_dataset(Blocks(blocks)) == {}


@pytest.mark.parametrize(("check", "cls", "says"), SABOTEURS, ids=[f"{c}-{s}" for c, _, s in SABOTEURS])
def test_the_check_finds_its_saboteur(check: str, cls: type[Blocks], says: str, blocks: Path) -> None:
    with pytest.raises(ContractError, match=says) as caught:
        CHECKS[check](cls(blocks))
    assert caught.value.check == check


def test_every_check_has_a_saboteur() -> None:
    assert {check for check, _, _ in SABOTEURS} == set(CHECKS)


def test_broken_items_are_left_out_unless_all_are(blocks: Path) -> None:
    class Broken(Blocks):
        good = (0, 2)

        def read(self, index):
            if index not in self.good:
                raise DataError("broken on disk")
            return super().read(index)

    assert check_dataset(Broken(blocks)) == {}
    Broken.good = ()
    with pytest.raises(ContractError, match="broken on disk"):
        check_dataset(Broken(blocks))
