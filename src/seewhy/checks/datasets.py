"""All checks of data sets, and one call that runs them."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from seewhy.checks.core import NOT_ONE, Check, ensure, entered, expect, named, one_sentence, run_all
from seewhy.data.base import Dataset, Sample
from seewhy.errors import DataError, SeewhyError

DATASET_CHECKS: list[tuple[str, Check]] = []
"""Every check of a data set as (name, check), filled by the decorator; `check(dataset, n=8)`."""

INSIDE = 0.8
"""The share of a mask that must lie in its object's box: the two are often drawn by different people."""


@dataclass
class DatasetCase:
    """A data set, and some of its items: the first, the last and those between, broken ones left out."""

    data: Dataset
    items: dict[int, Sample]

    @property
    def some(self) -> int:
        """The number of an item that can be read."""
        return next(iter(self.items))


def _make_case(data: Dataset, n: int) -> DatasetCase:
    items, reasons = {}, []
    for i in np.unique(np.linspace(0, len(data) - 1, min(n, len(data))).round().astype(int)).tolist():
        try:
            items[i] = data[i]
        except SeewhyError as error:  # what is broken on disk is no fault of the reader
            reasons.append(str(error))
    ensure(items, f"none of its items can be read ({reasons[0] if reasons else 'it is empty'})")
    return DatasetCase(data, items)


def dataset_check(fn: Callable[[DatasetCase], None]) -> Check:
    """Enter a check of data sets."""

    def run(dataset: Dataset, n: int = 8) -> None:
        with named(dataset.card.name, fn.__name__):
            fn(_make_case(dataset, n))

    return entered(DATASET_CHECKS, fn, run)


def check_dataset(dataset: Dataset, n: int = 8) -> dict[str, str]:
    """Run every check on a data set, reading `n` items spread over it.

    Items that raise a `SeewhyError` count as broken on disk and are left out; at least one must be readable.

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: the first check that fails, with the others as its notes.
    """
    with named(dataset.card.name, "reading"):
        case = _make_case(dataset, n)
    return run_all(DATASET_CHECKS, dataset.card.name, case)


def _each(case: DatasetCase, name: str) -> list[tuple[Sample, ndarray]]:
    """The items that have it, or the check does not apply."""
    found = [(item, getattr(item, name)) for item in case.items.values() if getattr(item, name) is not None]
    if not found:
        raise SkipTest(f"no item has {name}")
    return found


# ── the list ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataset_check
def check_dataset_card(case: DatasetCase) -> None:
    """Name, title, summary, source and splits are there; what lies on disk has a layout; the split is one of them."""
    card = case.data.card
    for name in ("name", "title", "summary", "source", "splits"):
        ensure(getattr(card, name), f"card.{name} is empty")
    ensure(one_sentence(card.summary), f"card.summary {NOT_ONE}")
    ensure(all(isinstance(text, str) and text for text in (*card.splits, *card.layout)), "card has an empty text")
    ensure(len(set(card.splits)) == len(card.splits), f"card.splits names one twice: {card.splits}")


@dataset_check
def check_ids_unique(case: DatasetCase) -> None:
    """As many ids as items, all different strings, and the same as the items'."""
    ids = list(case.data.ids)
    ensure(len(ids) == len(case.data), f"{len(ids)} ids for {len(case.data)} items")
    ensure(all(isinstance(i, str) and i for i in ids), "an id is empty or no string")
    ensure(len(set(ids)) == len(ids), "two items have one id")
    for i, item in case.items.items():
        ensure(item.id == ids[i], f"item {i} calls itself {item.id!r}, the list {ids[i]!r}")


@dataset_check
def check_sequence_indexing(case: DatasetCase) -> None:
    """Negative numbers count from the end, slices give lists, and beyond the end is an IndexError."""
    data, i, n = case.data, case.some, len(case.data)
    ensure(_same(data[i - n], case.items[i]), f"item {i - n} is not item {i}")
    part = data[i : i + 1]
    ensure(
        isinstance(part, list) and len(part) == 1 and _same(part[0], case.items[i]),
        f"[{i}:{i + 1}] is not the list of item {i}",
    )
    for beyond in (n, -n - 1):
        with expect(IndexError, f"item {beyond} of {n}"):
            data[beyond]


@dataset_check
def check_reading_order_invariance(case: DatasetCase) -> None:
    """An item is the same when it is read again, in another order."""
    for i in sorted(case.items, reverse=True):
        ensure(_same(case.data[i], case.items[i]), f"item {i} is another after others were read")


@dataset_check
def check_random_state_untouched(case: DatasetCase) -> None:
    """Reading draws nothing from, and sets nothing in, the global random states of torch and NumPy."""
    states = _random_states()
    case.data[case.some]
    ensure(_random_states() == states, "reading an item touches a global random state; use a generator of your own")


# ── the items ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataset_check
def check_image_rgb(case: DatasetCase) -> None:
    """A Pillow image of mode RGB with pixels."""
    for item in case.items.values():
        ensure(isinstance(item.image, Image.Image), f"{item.id}: the image is a {type(item.image).__name__}")
        ensure(item.image.mode == "RGB", f"{item.id}: the image's mode is {item.image.mode}; use images.load_image")
        ensure(min(item.image.size) > 0, f"{item.id}: the image has no pixels")


@dataset_check
def check_labels(case: DatasetCase) -> None:
    """Plain whole numbers into `class_names`, which are different strings; without objects no class twice."""
    names = case.data.class_names
    ensure(isinstance(names, tuple) and all(isinstance(n, str) and n for n in names), "class_names are no texts")
    ensure(len(set(names)) == len(names), "two classes have one name")
    for item in case.items.values():
        ensure(
            isinstance(item.labels, tuple) and all(type(label) is int for label in item.labels),
            f"{item.id}: its labels are no tuple of ints but {item.labels!r}",
        )
        ensure(
            all(0 <= label < len(names) for label in item.labels),
            f"{item.id}: the label {item.labels} is out of the range of {len(names)} classes",
        )
        if item.masks is None and item.boxes is None:
            ensure(len(set(item.labels)) == len(item.labels), f"{item.id}: a class twice without objects")


@dataset_check
def check_masks_match_image(case: DatasetCase) -> None:
    """Booleans (objects, rows, cols) of the image's size, one for each label."""
    for item, masks in _each(case, "masks"):
        ensure(isinstance(masks, ndarray) and masks.dtype == bool, f"{item.id}: the masks are no booleans")
        wanted = (len(item.labels), item.image.height, item.image.width)
        ensure(masks.shape == wanted, f"{item.id}: the masks' shape is {masks.shape}, not {wanted}")
    ensure(
        any(masks.any() for _, masks in _each(case, "masks")) or not any(i.labels for i in case.items.values()),
        "all masks are empty",
    )


@dataset_check
def check_boxes_in_image(case: DatasetCase) -> None:
    """Finite floats (objects, 4), left ≤ right, top ≤ bottom, inside the image, one for each label."""
    for item, boxes in _each(case, "boxes"):
        ensure(isinstance(boxes, ndarray) and boxes.dtype.kind == "f", f"{item.id}: the boxes are no floats")
        ensure(boxes.shape == (len(item.labels), 4), f"{item.id}: the boxes' shape is {boxes.shape}")
        ensure(np.isfinite(boxes).all(), f"{item.id}: a box is not finite")
        ensure((boxes[:, :2] <= boxes[:, 2:]).all(), f"{item.id}: a box ends before it begins: {boxes.tolist()}")
        inside = (boxes >= 0).all() and (boxes <= [*item.image.size, *item.image.size]).all()
        ensure(inside, f"{item.id}: a box leaves the image of {item.image.size}: {boxes.tolist()}")


@dataset_check
def check_boxes_contain_masks(case: DatasetCase) -> None:
    """At least `INSIDE` of each mask lies in the box of the same object."""
    both = [item for item, _ in _each(case, "boxes") if item.masks is not None]
    if not both:
        raise SkipTest("no item has both masks and boxes")
    for item in both:
        for k, (mask, box) in enumerate(zip(item.masks, item.boxes, strict=True)):
            left, top, right, bottom = (*np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int))
            share = mask[top:bottom, left:right].sum() / max(mask.sum(), 1)
            ensure(
                share >= INSIDE or not mask.any(), f"{item.id}: {share:.0%} of mask {k} lies in its box {box.tolist()}"
            )


@dataset_check
def check_ignore_disjoint_from_masks(case: DatasetCase) -> None:
    """`ignore` is a boolean of the image's size that shares no pixel with a mask."""
    for item, ignore in _each(case, "ignore"):
        ensure(isinstance(ignore, ndarray) and ignore.dtype == bool, f"{item.id}: ignore is no boolean")
        ensure(ignore.shape == (item.image.height, item.image.width), f"{item.id}: ignore's shape is {ignore.shape}")
        if item.masks is not None:
            shared = int((item.masks & ignore).sum())
            ensure(not shared, f"{item.id}: {shared} ignored pixels are in a mask")


@dataset_check
def check_about_json(case: DatasetCase) -> None:
    """`about` is a dict that JSON gives back as it was, without NaN."""
    for item in case.items.values():
        try:
            back = json.loads(json.dumps(item.about, allow_nan=False))
        except (TypeError, ValueError) as error:
            ensure(False, f"{item.id}: about is no JSON ({error}); use plain numbers, strings, lists and dicts")
        ensure(back == item.about, f"{item.id}: about is not the same after JSON; use lists for tuples, and text keys")


# ── the folder ────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataset_check
def check_missing_root_error(case: DatasetCase) -> None:
    """A missing folder and an empty one are a DataError with words of the layout."""
    card = case.data.card
    if not card.layout:
        raise SkipTest("nothing is on disk")
    words = {
        word
        for text in card.layout
        for word in text.replace("(", " ").replace(",", " ").split()
        if any(mark in word for mark in "./*_")
    }
    with tempfile.TemporaryDirectory() as folder:
        for root in (Path(folder) / "missing", Path(folder)):
            try:
                type(case.data)(root)
            except DataError as error:
                ensure(
                    any(word in str(error) for word in words),
                    f"the message for a wrong folder names none of the expected files: {error}",
                )
                continue
            except Exception as error:
                ensure(False, f"a wrong folder raises {type(error).__name__} ({error}) instead of DataError")
            ensure(False, "a wrong folder raises no DataError")


@dataset_check
def check_samples_not_shared(case: DatasetCase) -> None:
    """Whoever changes an item in place changes no later reading of it."""
    before, first = copy.deepcopy(case.items[case.some]), case.data[case.some]
    for value in (first.masks, first.boxes, first.ignore):
        if value is not None and value.flags.writeable:
            value[...] = 1
    first.image.paste((1, 2, 3), (0, 0, *first.image.size))
    first.about["seewhy"] = "was here"
    ensure(
        _same(case.data[case.some], before),
        f"item {case.some} shows what was written into an earlier reading of it; give copies",
    )


def _random_states() -> list[Any]:
    _, keys, *position = np.random.get_state()
    return [keys.tobytes(), position, torch.get_rng_state().numpy().tobytes()]


def _same(a: Sample, b: Sample) -> bool:
    """Every field the same, pixel by pixel."""
    return type(a) is type(b) and all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Image.Image):
        return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()
    if isinstance(a, ndarray):
        return isinstance(b, ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return a == b
