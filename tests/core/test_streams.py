"""Images come in any number and form, one after the other, decoded ahead; each map is that of its image alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import seewhy
from seewhy.core import streams
from seewhy.core.streams import as_stream, read_ahead
from seewhy.errors import ImageError, TargetError


@pytest.fixture(scope="module")
def model():
    return toys.toy_cnn()


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    draw = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(draw.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.glob("*.png"))


class Pairs(Dataset):
    """Images with labels, as torchvision's ImageFolder gives them."""

    def __init__(self, paths: list[Path], transform=None) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        image = Image.open(self.paths[i]).convert("RGB")
        return (self.transform(image) if self.transform else image), i


def test_all_forms_give_the_maps_of_single_images(model, paths, tmp_path) -> None:
    alone = [seewhy.explain(model, path, "lafam") for path in paths]

    def same(explanations: list[seewhy.Explanation], named: bool) -> None:
        assert len(explanations) == len(paths)
        for explanation, expected in zip(explanations, alone, strict=True):
            torch.testing.assert_close(explanation.attribution, expected.attribution)
            assert (explanation.source == expected.source) is named

    same(seewhy.explain(model, str(tmp_path / "*.png"), "lafam", batch_size=2), named=True)
    same(seewhy.explain(model, (path for path in paths), "lafam", batch_size=2), named=True)
    same(seewhy.explain(model, Pairs(paths), "lafam", batch_size=3), named=False)
    loader = DataLoader(Pairs(paths, model.preprocess), batch_size=2)
    of_loader = seewhy.explain(model, loader, "lafam")
    same(of_loader, named=False)
    assert of_loader[0].box is None
    shown = np.asarray(of_loader[0].image, np.float32)
    seen = np.asarray(alone[0].image.resize(of_loader[0].image.size), np.float32)
    assert np.abs(shown - seen).mean() < 40  # the same region, drawn back from the model's input
    records = ({"image": Image.open(path).convert("RGB"), "label": 3} for path in paths)
    same(seewhy.explain(model, records, "lafam"), named=False)
    with pytest.raises(TargetError, match="2 targets for 5 images"):
        seewhy.explain(model, (path for path in paths), "grad_cam", target=[0, 1])
    outcomes = list(seewhy.explain_each(model, iter([*paths, tmp_path / "none.png"]), ["lafam"], batch_size=4))
    assert [bool(outcome.error) for outcome in outcomes] == [False] * 5 + [True]


def test_what_gives_no_image_is_said(model, tmp_path) -> None:
    for nothing, message in (
        ([], "no images given"),
        (iter([]), "no images given"),
        (str(tmp_path / "*.png"), "no images match"),
        (3, "a int is not an image"),
        (DataLoader([torch.zeros(3)]), "must yield the model's inputs"),
    ):
        with pytest.raises(ImageError, match=message):
            seewhy.explain(model, nothing, "lafam")


def test_files_are_decoded_ahead_in_threads_and_in_order(tmp_path) -> None:
    """While the first is worked on, the next are decoded; an image in memory stays in its thread."""
    here, decoded = threading.get_ident(), []

    def open_one(image):
        def decode():
            decoded.append((image, threading.get_ident() == here))
            if image == "c":
                raise ImageError("broken")
            return image

        return decode

    read = read_ahead(iter("abcde"), open_one, ahead=3)
    assert next(read) == ("a", "a")
    for _ in range(100):
        if len(decoded) == 4:
            break
        threading.Event().wait(0.02)
    assert sorted(image for image, _ in decoded) == ["a", "b", "c", "d"]
    assert not any(mine for _, mine in decoded)
    rest = list(read)
    assert [image for image, _ in rest] == ["b", "c", "d", "e"]
    assert isinstance(rest[1][1], ImageError)
    memory = Image.new("RGB", (2, 2))
    decoded.clear()
    assert len(list(read_ahead([memory, memory], open_one, ahead=3))) == 2
    assert all(mine for _, mine in decoded)


def test_an_endless_stream_is_asked_for_no_more_than_is_needed(model) -> None:
    asked = []

    def endless() -> Iterator[Image.Image]:
        while True:
            asked.append(1)
            yield Image.new("RGB", (40, 40), (len(asked) * 9 % 256, 0, 0))

    outcomes = seewhy.explain_each(model, endless(), ["lafam"], batch_size=2)
    assert next(outcomes).error is None
    assert len(asked) <= 5
    outcomes.close()


def test_a_name_with_signs_of_a_pattern_is_a_file_first(tmp_path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a[1].png")
    assert as_stream(str(tmp_path / "a[1].png")) == ([str(tmp_path / "a[1].png")], True)


def test_items_are_saved_in_order_in_another_thread_while_the_next_are_made():
    made, saved, threads = [], [], set()

    def items():
        for i in range(8):
            made.append(i)
            yield i

    def save(item):
        threads.add(threading.current_thread())
        time.sleep(0.01)
        saved.append(item)
        return item * 10

    results = streams.saved_behind(save, items(), behind=2)
    assert next(results) == 0
    assert len(made) > len(saved)  # the next ones are made while the first are being written
    assert len(made) <= 4
    assert list(results) == [10, 20, 30, 40, 50, 60, 70]
    assert saved == list(range(8))
    assert threading.current_thread() not in threads


def test_what_goes_wrong_in_the_other_thread_comes_out_here():
    with pytest.raises(ZeroDivisionError):
        list(streams.saved_behind(lambda item: 1 // item, [1, 0]))
