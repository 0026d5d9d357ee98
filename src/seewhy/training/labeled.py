"""Labeled images of a dataset, as a model takes them, for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seewhy.core.options import Configurable, check_options, option
from seewhy.data.base import Dataset
from seewhy.errors import DataError, OptionError
from seewhy.models.adapter import VisionModel
from seewhy.training.task import SampleData


@dataclass(kw_only=True, frozen=True)
class Augmentation(Configurable):
    """How training images are varied before the model's own preprocessing.

    Raises:
        OptionError: A value cannot be used.
    """

    flip: bool = option(default=True, help="whether half of the images are mirrored")
    crop: float = option(
        default=0.8, help="smallest share of each side that a random crop keeps; 1: no crop", at_least=0
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not 0 < self.crop <= 1:
            raise OptionError(f"crop={self.crop} must be a share of the side, above 0 and at most 1")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Return the image, cropped and mirrored."""
        share = rng.uniform(self.crop, 1.0)
        width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
        left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
        mirrored = self.flip and rng.random() < 0.5
        image = image.crop((int(left), int(top), int(left) + width, int(top) + height))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


class LabeledImages(SampleData):
    """Images and the number of their class: the first label of each sample.

    Args:
        dataset: Where they come from.
        model: Whose preprocessing they go through.
        classes: What is told apart, as numbers of the dataset's classes in the order of the logits; default: those
            that the dataset says are `present`, else all that it names.
        indices: The samples, by number; default: all.
        augmentation: For training.
        keep: Whether the images are decoded once and kept in memory.

    Raises:
        DataError: There are fewer than two classes.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: VisionModel,
        *,
        classes: Sequence[int] | None = None,
        indices: Sequence[int] | None = None,
        augmentation: Augmentation | None = None,
        keep: bool = False,
    ) -> None:
        self.dataset, self.augmentation, self.keep = dataset, augmentation, keep
        self.preprocess = model.preprocess  # not the model: processes that read ahead get a copy
        present = getattr(dataset, "present", range(len(dataset.class_names)))
        chosen = tuple(present if classes is None else classes)
        self.classes = tuple(dataset.class_names[number] for number in chosen)
        self.numbers = chosen
        self._row = {number: row for row, number in enumerate(chosen)}
        if len(self._row) < 2:
            only = f" ({self.classes[0]})" if self.classes else ""
            raise DataError(
                f"{dataset.card.title} {dataset.split} has {len(self._row)} class{only}, and there is nothing to tell "
                "apart; use data of two classes or more"
            )
        self.indices = range(len(dataset)) if indices is None else indices
        self._kept: dict[int, tuple[Image.Image, int]] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Return the sample's id in the dataset."""
        return self.dataset.ids[self.indices[index]]

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image and the number of its class.

        Raises:
            DataError: It shows no class, or one that is not told apart.
        """
        if index in self._kept:
            return self._kept[index]
        sample = self.dataset[self.indices[index]]
        row = self._row.get(sample.labels[0]) if sample.labels else None
        if row is None:
            raise DataError(f"{sample.id} shows none of the classes that are told apart; leave it out")
        if self.keep:
            self._kept[index] = (sample.image, row)
        return sample.image, row

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        """Return the model's input and the label."""
        image, row = self.read(index)
        if rng is not None and self.augmentation is not None:
            image = self.augmentation(image, rng)
        return {"image": self.preprocess(image), "label": torch.tensor(row)}
