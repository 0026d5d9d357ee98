"""All checks of datasets, and one call that runs them."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest import SkipTest

import numpy as np
import torch
from numpy import ndarray
from PIL import Image

from seewhy.checks.core import NOT_ONE, Broken, ensure, expect, named, one_sentence, run_all
from seewhy.checks.dataset_case import (
    DATASET_CHECKS,
    DatasetCase,
    dataset_check,
    each_with,
    make_dataset_case,
    same_sample,
)
from seewhy.checks.state import numpy_random_state
from seewhy.data.base import Dataset
from seewhy.errors import DataError

INSIDE = 0.8
"""The share of a mask that must lie in its object's box: the two are often drawn by different people."""


def check_dataset(dataset: Dataset, n: int = 8) -> dict[str, str]:
    """Run every check of a dataset.

    Args:
        dataset: The dataset.
        n: The number of samples that are read, spread over it. Those that raise a `SeewhyError` count as broken on
            disk and are left out; at least one must be readable.

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: A check fails; the first, with the others as its notes.
    """
    with named(dataset.card.name, "reading"):
        case = make_dataset_case(dataset, n)
    return run_all(DATASET_CHECKS, dataset.card.name, case)


# ── the list ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataset_check
def check_dataset_card(case: DatasetCase) -> None:
    """Check that name, title, summary, source and splits are there, and no text is empty."""
    card = case.data.card
    for name in ("name", "title", "summary", "source", "splits"):
        ensure(getattr(card, name), f"card.{name} is empty")
    ensure(one_sentence(card.summary), f"card.summary {NOT_ONE}")
    ensure(all(isinstance(text, str) and text for text in (*card.splits, *card.layout)), "card has an empty text")
    ensure(len(set(card.splits)) == len(card.splits), f"card.splits names one twice: {card.splits}")


@dataset_check
def check_ids_unique(case: DatasetCase) -> None:
    """Check for as many ids as samples, all different strings, and the same as the samples'."""
    ids = list(case.data.ids)
    ensure(len(ids) == len(case.data), f"{len(ids)} ids for {len(case.data)} samples")
    ensure(all(isinstance(i, str) and i for i in ids), "an id is empty or no string")
    ensure(len(set(ids)) == len(ids), "two samples have one id")
    for i, sample in case.samples.items():
        ensure(sample.id == ids[i], f"sample {i} calls itself {sample.id!r}, the list {ids[i]!r}")


@dataset_check
def check_sequence_indexing(case: DatasetCase) -> None:
    """Check that negative indices count from the end, slices give lists, and beyond the end is an IndexError."""
    data, i, n = case.data, case.some, len(case.data)
    ensure(same_sample(data[i - n], case.samples[i]), f"sample {i - n} is not sample {i}")
    part = data[i : i + 1]
    ensure(
        isinstance(part, list) and len(part) == 1 and same_sample(part[0], case.samples[i]),
        f"[{i}:{i + 1}] is not the list of sample {i}",
    )
    for beyond in (n, -n - 1):
        with expect(IndexError, f"sample {beyond} of {n}"):
            data[beyond]


@dataset_check
def check_reading_order_invariance(case: DatasetCase) -> None:
    """Check that a sample is the same when it is read again, in another order."""
    for i in sorted(case.samples, reverse=True):
        ensure(same_sample(case.data[i], case.samples[i]), f"sample {i} is another after others were read")


@dataset_check
def check_random_state_untouched(case: DatasetCase) -> None:
    """Check that reading draws nothing from, and sets nothing in, the global random states of torch and NumPy."""
    states = _random_states()
    case.data[case.some]
    ensure(_random_states() == states, "reading a sample touches a global random state; use a generator of your own")


# ── the samples ───────────────────────────────────────────────────────────────────────────────────────────────────────
@dataset_check
def check_image_rgb(case: DatasetCase) -> None:
    """Check for a Pillow image of mode RGB with pixels."""
    for sample in case.samples.values():
        ensure(isinstance(sample.image, Image.Image), f"{sample.id}: the image is a {type(sample.image).__name__}")
        ensure(
            sample.image.mode == "RGB", f"{sample.id}: the image's mode is {sample.image.mode}; use images.load_image"
        )
        ensure(min(sample.image.size) > 0, f"{sample.id}: the image has no pixels")


@dataset_check
def check_labels(case: DatasetCase) -> None:
    """Check that labels are ints into `class_names`, which are different strings; without objects no class twice."""
    names = case.data.class_names
    ensure(isinstance(names, tuple) and all(isinstance(n, str) and n for n in names), "class_names are no texts")
    ensure(len(set(names)) == len(names), "two classes have one name")
    for sample in case.samples.values():
        ensure(
            isinstance(sample.labels, tuple) and all(type(label) is int for label in sample.labels),
            f"{sample.id}: its labels are no tuple of ints but {sample.labels!r}",
        )
        ensure(
            all(0 <= label < len(names) for label in sample.labels),
            f"{sample.id}: the label {sample.labels} is out of the range of {len(names)} classes",
        )
        if sample.masks is None and sample.boxes is None:
            ensure(len(set(sample.labels)) == len(sample.labels), f"{sample.id}: a class twice without objects")


@dataset_check
def check_masks_match_image(case: DatasetCase) -> None:
    """Check for masks of booleans (objects, rows, cols) of the image's size, one for each label."""
    for sample, masks in each_with(case, "masks"):
        ensure(isinstance(masks, ndarray) and masks.dtype == bool, f"{sample.id}: the masks are no booleans")
        wanted = (len(sample.labels), sample.image.height, sample.image.width)
        ensure(masks.shape == wanted, f"{sample.id}: the masks' shape is {masks.shape}, not {wanted}")
    ensure(
        any(masks.any() for _, masks in each_with(case, "masks")) or not any(s.labels for s in case.samples.values()),
        "all masks are empty",
    )


@dataset_check
def check_boxes_in_image(case: DatasetCase) -> None:
    """Check for finite boxes (objects, 4), left ≤ right, top ≤ bottom, inside the image, one for each label."""
    for sample, boxes in each_with(case, "boxes"):
        ensure(isinstance(boxes, ndarray) and boxes.dtype.kind == "f", f"{sample.id}: the boxes are no floats")
        ensure(boxes.shape == (len(sample.labels), 4), f"{sample.id}: the boxes' shape is {boxes.shape}")
        ensure(np.isfinite(boxes).all(), f"{sample.id}: a box is not finite")
        ensure((boxes[:, :2] <= boxes[:, 2:]).all(), f"{sample.id}: a box ends before it begins: {boxes.tolist()}")
        inside = (boxes >= 0).all() and (boxes <= [*sample.image.size, *sample.image.size]).all()
        ensure(inside, f"{sample.id}: a box leaves the image of {sample.image.size}: {boxes.tolist()}")


@dataset_check
def check_boxes_contain_masks(case: DatasetCase) -> None:
    """Check that at least `INSIDE` of each mask lies in the box of the same object."""
    both = [(sample, sample.masks, boxes) for sample, boxes in each_with(case, "boxes") if sample.masks is not None]
    if not both:
        raise SkipTest("no sample has both masks and boxes")
    for sample, masks, boxes in both:
        for k, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
            left, top = np.floor(box[:2]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            share = mask[top:bottom, left:right].sum() / max(mask.sum(), 1)
            enough = share >= INSIDE or not mask.any()
            ensure(enough, f"{sample.id}: {share:.0%} of mask {k} lies in its box {box.tolist()}")


@dataset_check
def check_ignore_disjoint_from_masks(case: DatasetCase) -> None:
    """Check that `ignore` is a boolean mask of the image's size that shares no pixel with a mask."""
    for sample, ignore in each_with(case, "ignore"):
        ensure(isinstance(ignore, ndarray) and ignore.dtype == bool, f"{sample.id}: ignore is no boolean")
        ensure(
            ignore.shape == (sample.image.height, sample.image.width), f"{sample.id}: ignore's shape is {ignore.shape}"
        )
        if sample.masks is not None:
            shared = int((sample.masks & ignore).sum())
            ensure(not shared, f"{sample.id}: {shared} ignored pixels are in a mask")


@dataset_check
def check_about_json(case: DatasetCase) -> None:
    """Check that `about` is a dict that JSON gives back as it was, without NaN."""
    for sample in case.samples.values():
        try:
            back = json.loads(json.dumps(sample.about, allow_nan=False))
        except (TypeError, ValueError) as error:
            message = f"{sample.id}: about is no JSON ({error}); use plain numbers, strings, lists and dicts"
            raise Broken(message) from None
        ensure(
            back == sample.about, f"{sample.id}: about is not the same after JSON; use lists for tuples, and text keys"
        )


# ── the folder ────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataset_check
def check_missing_root_error(case: DatasetCase) -> None:
    """Check that a missing folder and an empty one are a DataError that names an expected file."""
    card = case.data.card
    if not card.layout:
        raise SkipTest("nothing is on disk")
    words = {
        word
        for text in card.layout
        for word in text.replace("(", " ").replace(",", " ").split()
        if any(mark in word for mark in "./*_")
    }
    open_dataset = cast(Callable[[Path], Dataset], type(case.data))  # each has arguments of its own, the root first
    with tempfile.TemporaryDirectory() as folder:
        for root in (Path(folder) / "missing", Path(folder)):
            try:
                open_dataset(root)
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
    """Check that a sample changed in place changes no later reading of it."""
    before, first = copy.deepcopy(case.samples[case.some]), case.data[case.some]
    for value in (first.masks, first.boxes, first.ignore):
        if value is not None and value.flags.writeable:
            value[...] = 1
    first.image.paste((1, 2, 3), (0, 0, *first.image.size))
    first.about["seewhy"] = "was here"
    ensure(
        same_sample(case.data[case.some], before),
        f"sample {case.some} shows what was written into an earlier reading of it; give copies",
    )


def _random_states() -> list[Any]:
    return [*numpy_random_state(), torch.get_rng_state().numpy().tobytes()]
