"""From a name or a path to a model that can be explained."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from seewhy.errors import MissingExtraError, ModelError, OptionError, UnknownNameError, WeightsError
from seewhy.models import checkpoints
from seewhy.models.adapter import VisionModel

Name = str | os.PathLike[str]


@dataclass(frozen=True)
class Source:
    """Where models come from.

    Attributes:
        home: the file in `seewhy.models` with `load`, `names`, `recognizes` and `structure`; some have `preprocess`
            (what a module of theirs takes) and `tower` (the image side of a model of images and texts).
        prefix: how its models' names start; empty: it brings a few names of its own.
        package: the library whose modules it recognizes.
    """

    home: str
    prefix: str
    package: str

    @property
    def module(self) -> ModuleType:
        """The source's file, imported now."""
        return importlib.import_module(f"seewhy.models.sources.{self.home}")


SOURCES = (
    Source("efficientnet_lite", "", "efficientnet_lite_pytorch"),
    Source("scenes", "", "seewhy"),
    Source("timm", "timm/", "timm"),
    Source("torchvision", "torchvision/", "torchvision"),
    Source("hf", "hf/", "transformers"),
    Source("open_clip", "open_clip/", "open_clip"),
)


def load_model(
    name: Name,
    *,
    architecture: str | None = None,
    device: torch.device | str | None = None,
    pretrained: bool = True,
    **options: Any,
) -> VisionModel:
    """A model by name or from disk, in eval mode.

    Args:
        name: `efficientnet_lite0`, `scenes_vit`, `scenes_cnn`, `timm/NAME`, `torchvision/NAME`, `hf/REPO`,
            `open_clip/MODEL:PRETRAINED` (`list_models` lists them), a folder in the Hugging Face format, or a
            checkpoint file.
        architecture: for a checkpoint file, the name of the model that it fits; None: recognized where the names
            and shapes of the weights tell (ViT in DINO's names, ResNet).
        device: None: a CUDA device where there is one, else the CPU.
        pretrained: whether weights are loaded, or drawn at random.
        options: passed on to the source (`num_classes=…`).

    Raises:
        UnknownNameError: no such model; the nearest are suggested.
        MissingExtraError: the library is not installed; the message has the pip command.
        WeightsError: the weights cannot be read safely, or do not fit the architecture.
    """
    place = _device(device)
    with torch.inference_mode(False):  # nothing could be differentiated through weights that are made inside
        model = _open(os.fspath(name), architecture, pretrained, options)
        model.module.eval()
        return model.to(place)


def list_models(pattern: str = "*") -> list[str]:
    """The names that `load_model` knows, from the libraries that are installed, matching a shell pattern."""
    return sorted(fnmatch.filter(_all_names(), pattern))


def source_of(module: nn.Module) -> ModuleType | None:
    """The source whose `structure` knows this module; libraries that are not in use are not imported."""
    for source in SOURCES:
        if source.package in sys.modules and source.module.recognizes(module):
            return source.module
    return None


def _open(name: str, architecture: str | None, pretrained: bool, options: dict[str, Any]) -> VisionModel:
    path = Path(name).expanduser()
    source = _source(name)
    is_file = not source and (path.is_file() or path.suffix in checkpoints.SUFFIXES)
    if architecture is not None and not is_file:
        raise OptionError(f"architecture= goes with a checkpoint file, and {name!r} is none; leave it out")
    if source:
        return source.module.load(name.removeprefix(source.prefix), pretrained=pretrained, **options)
    if is_file:
        return _from_checkpoint(path, architecture, options)
    if path.is_dir():
        return _from_folder(path, pretrained, options)
    raise UnknownNameError(
        "model", name, _nearest(name), "`seewhy models` lists the names; a path must lead to a file or folder"
    )


def _source(name: str) -> Source | None:
    for source in SOURCES:
        if name.startswith(source.prefix) if source.prefix else name in source.module.names():
            return source
    return None


def _from_folder(path: Path, pretrained: bool, options: dict[str, Any]) -> VisionModel:
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{path} has no config.json, so it is no model folder; save one with save_pretrained(…), "
            "or give the checkpoint file"
        )
    return importlib.import_module("seewhy.models.sources.hf").load(str(path), pretrained=pretrained, **options)


def _from_checkpoint(path: Path, architecture: str | None, options: dict[str, Any]) -> VisionModel:
    state, layout = checkpoints.strip_layout(checkpoints.read_state(path))
    if architecture is None:
        architecture, usual = checkpoints.recognized(state) or (None, {})
        options = {**usual, **options}
    if architecture is None:
        raise WeightsError(
            f"{path} ({layout} layout) does not tell its architecture; say architecture='timm/…' or 'torchvision/…'"
        )
    if _source(architecture) is None:
        raise UnknownNameError("architecture", architecture, _nearest(architecture))
    model = _open(architecture, None, False, options)
    return checkpoints.load_state(model, state, name=path.name)


def _device(device: torch.device | str | None) -> torch.device:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise OptionError(f"there is no device {str(device)!r}; use cpu, cuda or cuda:0") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"there is no device {str(place)!r} here; use device='cpu'")
    return place


def _all_names() -> Iterator[str]:
    for source in SOURCES:
        try:
            yield from (source.prefix + name for name in source.module.names())
        except MissingExtraError:
            continue


def _nearest(name: str, n: int = 4) -> list[str]:
    """Names like this one, in any source: `resnet50` is near `torchvision/resnet50` and `timm/resnet50.a1_in1k`."""
    tails: dict[str, list[str]] = {}
    for known in _all_names():
        tails.setdefault(known.split("/")[-1].split(".")[0].lower(), []).append(known)
    wanted = name.split("/")[-1].lower()
    tail = wanted.split(".")[0]
    near = [tail] if tail in tails else difflib.get_close_matches(tail, tails, n=n, cutoff=0.7)
    # the first of each source: a name like resnet50 has a dozen sets of weights in timm
    firsts = [known for tail in near for known in {k.split("/")[0]: k for k in reversed(tails[tail])}.values()]
    return firsts[:n] or [known for known in _all_names() if wanted in known.lower()][:n]
