"""Samples of a dataset with what a model shall say of them: their class, or quantities that are known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from numpy import ndarray
from PIL import Image
from torch import Tensor

from seewhy.data.base import Dataset, Sample
from seewhy.errors import DataError, SeewhyError, UnknownNameError
from seewhy.models.adapter import PreprocessFunction
from seewhy.training.augmentation import random_view
from seewhy.training.features import label_of
from seewhy.training.task import SampleData

AUGMENTATIONS = ("flip", "turn", "rotate", "crop")
KEPT_BYTES = 1 << 29
"""Decoded images are kept in memory up to this size; beyond it they are read anew."""


@dataclass(frozen=True)
class Answers:
    """What is to be learned of the samples of a dataset.

    Attributes:
        labels: The class of each sample; 0 where only quantities count.
        values: Quantities, in the order of `names`.
        names: Of the classes or quantities.
        regression: Which of the two it is.
        indices: Samples of the dataset that have an answer.
        left_out: Samples without one, by id, and why.
    """

    labels: Int[ndarray, " n"]
    values: Float32[ndarray, "n outputs"]
    names: tuple[str, ...]
    regression: bool
    indices: Int[ndarray, " n"]
    left_out: dict[str, str] = field(default_factory=dict)


def read_answers(dataset: Dataset, quantities: Sequence[str] = ()) -> Answers:
    """Read the class, or the quantities, of each sample.

    Args:
        dataset: The samples.
        quantities: Names in `about` of the samples, or in its `biomarkers`; none: the classes are learned.

    Raises:
        UnknownNameError: No sample has a quantity of that name.
    """
    labels, values, indices, left_out = [], [], [], {}
    known: dict[str, None] = {}
    for i, name in enumerate(dataset.ids):
        try:
            sample = dataset[i]
        except SeewhyError as error:
            left_out[name] = str(error)
            continue
        found = _numbers(sample)
        known.update(dict.fromkeys(found))
        label, reason = label_of(sample)
        missing = [q for q in quantities if q not in found]
        if missing or (reason and not quantities):
            left_out[name] = f"it has no {missing[0]}" if missing else reason
            continue
        indices.append(i)
        labels.append(max(0, label))
        values.append([found[q] for q in quantities])
    for quantity in quantities:
        if quantity not in known:
            raise UnknownNameError("quantity", quantity, known)
    if not indices:
        raise DataError("no sample of the dataset has what is to be learned; check the folder and its split")
    return Answers(
        np.array(labels),
        np.array(values, dtype=np.float32).reshape(len(indices), len(quantities)),
        tuple(quantities) or tuple(dataset.class_names),
        bool(quantities),
        np.array(indices),
        left_out,
    )


def _numbers(sample: Sample) -> dict[str, float]:
    """Return the finite numbers that are known of a sample."""
    about: Mapping[str, Any] = sample.about
    every = {**about, **about.get("biomarkers", {})}
    return {
        name: float(value)
        for name, value in every.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    }


class ImageData(SampleData):
    """Images with their answers, as training data.

    Args:
        dataset: The samples.
        answers: What is to be learned of them.
        chosen: Which of the answers.
        preprocess: Of the model.
        augment: What is done to training images, of `AUGMENTATIONS`: `flip` mirrors half of them, `turn` turns by a
            multiple of 90°, `rotate` by any angle (corners become black), `crop` crops at random.
    """

    def __init__(
        self,
        dataset: Dataset,
        answers: Answers,
        chosen: Int[ndarray, " m"],
        preprocess: PreprocessFunction,
        augment: Sequence[str] = (),
    ) -> None:
        for name in augment:
            if name not in AUGMENTATIONS:
                raise UnknownNameError("augmentation", name, AUGMENTATIONS)
        self.dataset, self.answers, self.chosen = dataset, answers, chosen
        self.preprocess, self.augment = preprocess, tuple(augment)
        self._kept: dict[int, Image.Image] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, index: int) -> str:
        """Return the sample's id."""
        return self.dataset.ids[int(self.answers.indices[self.chosen[index]])]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        """Return a sample: `x` the input, `label` its class, `y` its quantities."""
        row = int(self.chosen[index])
        image = self._image(int(self.answers.indices[row]))
        return {
            "x": self.preprocess(image) if rng is None else self._augmented(image, rng),
            "label": torch.tensor(int(self.answers.labels[row])),
            "y": torch.from_numpy(self.answers.values[row]),
        }

    def _image(self, number: int) -> Image.Image:
        if number not in self._kept:
            image = self.dataset[number].image
            size = image.width * image.height * 3
            if self._bytes + size > KEPT_BYTES:
                return image
            self._bytes += size
            self._kept[number] = image
        return self._kept[number]

    def _augmented(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        if "turn" in self.augment:
            turns = int(rng.integers(4))
            image = image.transpose(_TURNS[turns - 1]) if turns else image
        if "rotate" in self.augment:
            image = image.rotate(rng.uniform(-180, 180), Image.Resampling.BILINEAR)
        if "flip" in self.augment and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return random_view(image, self.preprocess, rng) if "crop" in self.augment else self.preprocess(image)


_TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
