"""Trained explainers of the toys, fitted in a second: on noise with a square whose color is the class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Sample, dataset
from seewhy.methods.trained.base import TrainedMethod
from seewhy.models.adapter import VisionModel
from seewhy.training.explainers import fit_explainer
from seewhy.training.labeled import LabeledImages
from seewhy.training.task import SampleData

SMALL = {
    "ala": {
        "heads": 2,
        "layers": 2,
        "patch": 8,
        "width": 8,
        "hidden": 8,
        "lora_rank": 2,
        "taps": [0, 2],
        "lora_blocks": [0, 1, 2],
    },
    "abn": {"width": 8, "depth": 1, "hidden": 8},
}


@dataset(
    register=False,
    name="squares",
    title="Squares",
    summary="A red, green or blue square on noise.",
    splits=("all",),
    layout=(),
    has={Requirement.LABEL, Requirement.OBJECTS},
    source="here",
    citation="",
)
class Squares(Dataset):
    class_names = ("red", "green", "blue")
    split = "all"

    def __init__(self, n: int = 12, seed: int = 0) -> None:
        self.n, self.seed = n, seed

    @property
    def ids(self) -> list[str]:
        return [f"square{i}" for i in range(self.n)]

    def read(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        label, top, left = index % 3, int(rng.integers(0, 18)), int(rng.integers(0, 34))
        mask = np.zeros((1, 32, 48), bool)
        mask[0, top : top + 14, left : left + 14] = True
        pixels = rng.integers(0, 120, (32, 48, 3)) + 130 * mask[0, ..., None] * (np.arange(3) == label)
        return Sample(f"square{index}", Image.fromarray(pixels.astype(np.uint8)), (label,), mask)


class Fixed(SampleData):
    """Inputs as they are, of two classes by turns."""

    classes = ("even", "odd")

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def sample(self, index: int, rng: object) -> dict[str, Tensor]:
        return {"image": self.x[index], "label": torch.tensor(index % 2)}


def fit(method: str, model: VisionModel, n: int = 12, **options: Any) -> TrainedMethod:
    """A fitted explainer of a toy; `networks` are changes of `SMALL`."""
    networks = {**SMALL[method], **options.pop("networks", {})}
    options = {"epochs": 3, "batch_size": 6, "lr": 0.01, "device": "cpu", "progress": False, **options}
    data = options.pop("data", None) or LabeledImages(Squares(n), model)
    return fit_explainer(method, model, data, networks=networks, **options)
