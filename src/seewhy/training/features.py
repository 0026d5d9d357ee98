"""Features of a frozen backbone: computed once, memory-mapped, continued where a kill left them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset as TorchDataset

from seewhy.core.io import atomic_file, first_line
from seewhy.core.preprocess import Preprocess
from seewhy.core.progress import Progress, no_progress
from seewhy.data.base import Dataset, Sample
from seewhy.errors import DataError, SeewhyError
from seewhy.models.adapter import VisionModel
from seewhy.models.fingerprint import fingerprint
from seewhy.training.augmentation import random_view

FEATURES, LABELS, STATE = "features.npy", "labels.npy", "state.json"
_LEFT_OUT = -1  # the label of samples that cannot be used
_SECONDS = 20.0  # between two notes of how far it has come


@dataclass(frozen=True)
class Features:
    """What a backbone makes of a dataset.

    Attributes:
        values: Embeddings, a view of all samples after the other; on disk until they are read.
        labels: The class of each sample, -1 of those that are left out.
        names: The ids of the samples.
        class_names: Of the dataset.
        left_out: Samples that cannot be used, by id, and why.
    """

    values: Float32[ndarray, "views n dim"]
    labels: Int32[ndarray, " n"]
    names: Sequence[str]
    class_names: tuple[str, ...]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> Int[ndarray, " m"]:
        """The numbers of the samples that have a feature and a class."""
        return np.flatnonzero(self.labels != _LEFT_OUT)


def cached_features(
    model: VisionModel,
    dataset: Dataset,
    folder: str | Path,
    *,
    views: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Features:
    """Return the embeddings of all samples of a dataset, from disk where they are already.

    A sample whose image is broken, or that has not exactly one class, is left out and named. The cache knows the
    backbone by its weights and the data by their ids: delete it when images change under the same ids.

    Args:
        model: The backbone; of a model with a classifier, what enters the classifier.
        dataset: The samples.
        folder: Where caches are kept, each in a folder of its own.
        views: Random crops (and flips) of each image; 0: the image as the model's preprocessing takes it.
        batch_size: Images per forward pass.
        workers: Processes that read and preprocess images.
        seed: Of the crops.
        progress: Reports the images.

    Raises:
        DataError: The dataset is empty, or the model has no embedding.
        SeewhyError: The folder cannot be written.
    """
    if len(dataset) == 0:
        raise DataError("the dataset has no samples; check the folder and its split")
    key = _key(model, dataset, views, seed)
    place = Path(folder).expanduser() / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    try:
        state = _fill(model, dataset, place, key, max(1, views), batch_size, workers, progress)
    except OSError as error:
        raise SeewhyError(
            f"cannot write {place} ({error.strerror or first_line(error)}); make room, then go on"
        ) from error
    values, labels = np.load(place / FEATURES, mmap_mode="r"), np.load(place / LABELS)
    return Features(values, labels, dataset.ids, dataset.class_names, state["left_out"])


def _key(model: VisionModel, dataset: Dataset, views: int, seed: int) -> dict[str, Any]:
    preprocess = model.preprocess
    return {
        "backbone": fingerprint(model.module),
        "head": model.structure.head,
        "preprocess": preprocess.to_dict() if isinstance(preprocess, Preprocess) else repr(preprocess),
        "dataset": type(dataset).__name__,
        "split": dataset.split,
        "ids": hashlib.sha256("\n".join(dataset.ids).encode()).hexdigest(),
        "classes": list(dataset.class_names),
        "views": views,
        "seed": seed if views else 0,
    }


def _fill(
    model: VisionModel,
    dataset: Dataset,
    place: Path,
    key: dict[str, Any],
    views: int,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Compute what is missing; whatever a kill leaves is features up to a noted place."""
    total = views * len(dataset)
    state: dict[str, Any] = {"key": key, "done": 0, "left_out": {}}
    if (place / STATE).exists():
        state = json.loads((place / STATE).read_text("utf-8"))
        if state["done"] == total:
            return state
        values = np.lib.format.open_memmap(place / FEATURES, mode="r+")
        labels = np.lib.format.open_memmap(place / LABELS, mode="r+")
    else:
        place.mkdir(parents=True, exist_ok=True)
        shape = (views, len(dataset), _width(model))
        values = np.lib.format.open_memmap(place / FEATURES, mode="w+", dtype=np.float32, shape=shape)
        labels = np.lib.format.open_memmap(place / LABELS, mode="w+", dtype=np.int32, shape=(len(dataset),))
        _claim(place / FEATURES)
        _note(place, state)
    flat, noted = values.reshape(total, -1), time.monotonic()
    reader = _Inputs(dataset, model.preprocess, key["views"] > 0, key["seed"], state["done"], total)
    loader = DataLoader(reader, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    rows = iter(progress(loader, len(reader), "features"))
    while batch := list(islice(rows, batch_size)):
        start = state["done"]
        for number, row in enumerate(batch, start):
            if start < len(dataset):
                labels[number % len(dataset)] = row.label
            if row.reason:
                state["left_out"][dataset.ids[number % len(dataset)]] = row.reason
        kept = [i for i, row in enumerate(batch) if row.input is not None]
        if kept:
            flat[[start + i for i in kept]] = _embed(model, [batch[i].input for i in kept])
        state["done"] = start + len(batch)
        if time.monotonic() - noted > _SECONDS or state["done"] == total:
            values.flush()
            labels.flush()
            _note(place, state)
            noted = time.monotonic()
    return state


@dataclass(frozen=True)
class _InputRow:
    input: Tensor | None
    label: int
    reason: str = ""


class _Inputs(TorchDataset[_InputRow]):
    """The model's inputs, one after the other from a place on."""

    def __init__(self, dataset: Dataset, preprocess: Any, crops: bool, seed: int, start: int, total: int) -> None:
        self.dataset, self.preprocess, self.crops, self.seed = dataset, preprocess, crops, seed
        self.start, self.total = start, total

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[_InputRow]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, number: int) -> _InputRow:
        view, index = divmod(self.start + number, len(self.dataset))
        try:
            sample = self.dataset[index]
        except SeewhyError as error:
            return _InputRow(None, _LEFT_OUT, str(error))
        label, reason = label_of(sample)
        if reason:
            return _InputRow(None, _LEFT_OUT, reason)
        if not self.crops:
            return _InputRow(self.preprocess(sample.pixels), label)
        return _InputRow(
            random_view(sample.image, self.preprocess, np.random.default_rng([self.seed, view, index])), label
        )


def label_of(sample: Sample) -> tuple[int, str]:
    """Return the one class of a sample, or why it has none."""
    classes = sorted(set(sample.labels))
    if len(classes) == 1:
        return classes[0], ""
    return _LEFT_OUT, f"it has {len(classes)} classes, not one" if classes else "it has no class"


def _embed(model: VisionModel, inputs: Sequence[Tensor | None]) -> Float32[ndarray, "batch dim"]:
    kept = [x for x in inputs if x is not None]
    if len({x.shape for x in kept}) > 1:
        raise DataError("the images have different sizes after preprocessing; give the model one: size, or crop")
    x = torch.stack(kept).to(model.device, model.dtype)
    with torch.no_grad():
        embedding = model.forward_checked(x).embedding
    assert embedding is not None  # _width has looked
    return embedding.float().cpu().numpy()


def _width(model: VisionModel) -> int:
    rows, cols = getattr(model.preprocess, "size", (224, 224))
    x = torch.zeros(1, model.channels or 3, rows, cols, device=model.device, dtype=model.dtype)
    with torch.no_grad():
        embedding = model.forward_checked(x).embedding
    if embedding is None:
        raise DataError(f"{model.name} has no embedding that a head could read; take a model with one")
    return embedding.shape[1]


def _claim(path: Path) -> None:
    """Claim the room of a file that has only its size so far: a full disk is an error here, and a crash later."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _note(place: Path, state: dict[str, Any]) -> None:
    with atomic_file(place / STATE) as draft:
        draft.write_text(json.dumps(state, ensure_ascii=False), "utf-8")


def _as_it_is(row: Any) -> Any:
    return row
