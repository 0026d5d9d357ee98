"""Networks of the scenes in several sizes, trained for the study and opened by plans as `sized/FOLDER`."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from torch import nn

from seewhy.data.scenes import CLASSES
from seewhy.models.adapter import VisionModel
from seewhy.models.reference import scenes
from seewhy.models.sources import scenes as source
from seewhy.models.sources.base import SOURCES
from seewhy.models.structure import Structure
from seewhy.training.run import CHECKPOINT
from seewhy.training.scenes import train
from seewhy.training.weights import load_half

PREFIX = "sized/"
PACKAGE = "scripts.studies.sized"
DISTRIBUTIONS: tuple[str, ...] = ()
EXTRA = ""
WIDTHS = {
    "quarter": (8, 12, 24, 32),
    "half": (16, 24, 48, 64),
    "whole": (32, 48, 96, 128),
    "double": (64, 96, 192, 256),
}
"""Widths of `SceneCNN`; the shipped one is "whole"."""


def trained(folder: Path, size: str, *, steps: int, images: int) -> str:
    """Train a size, unless the folder holds it, and return its name for a plan."""
    where = folder / size
    if not (where / "model.safetensors").is_file():
        train(
            "scenes_cnn",
            where,
            resume=(where / CHECKPOINT).is_file(),
            options={"widths": WIDTHS[size]},
            steps=steps,
            images=images,
            warmup=min(200, steps // 5),
            pool_dir=folder / "pool",
            quiet=True,
        )
    return f"{PREFIX}{where}"


def names(pattern: str = "*") -> list[str]:
    """Return the sizes that match a shell pattern."""
    return fnmatch.filter(WIDTHS, pattern)


def load(name: str, *, pretrained: bool = True) -> VisionModel:
    """Open what `trained` left in a folder."""
    folder = Path(name)
    module = scenes.SceneCNN(widths=WIDTHS[folder.name])
    if pretrained:
        load_half(module, folder / "model.safetensors")
    module.eval()
    return VisionModel(
        module, structure(module), name=folder.name, preprocess=source.preprocess(module), class_names=CLASSES
    )


def recognizes(module: nn.Module) -> bool:
    """Tell that modules are recognized by the source of the reference models."""
    return False


def structure(module: nn.Module) -> Structure:
    """Tell where a network keeps what."""
    return source.structure(module)


if "sized" not in SOURCES:
    SOURCES.add("sized", __import__("sys").modules[__name__])
