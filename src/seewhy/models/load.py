"""From a name or a path to a model that can be explained."""

from __future__ import annotations

import difflib
import fnmatch
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seewhy.core.io import first_line
from seewhy.errors import MissingExtraError, ModelError, OptionError, UnknownNameError, WeightsError
from seewhy.models import checkpoints
from seewhy.models.adapter import VisionModel
from seewhy.models.sources.base import SOURCES, ModelSource
from seewhy.models.text import PLAIN

Name = str | os.PathLike[str]
"""The name of a model, or a path."""


def load_model(
    name: Name,
    *,
    architecture: str | None = None,
    device: torch.device | str | None = None,
    pretrained: bool = True,
    zero_shot: Sequence[str] | None = None,
    templates: Sequence[str] = PLAIN,
    **options: Any,
) -> VisionModel:
    """Open a model by name or from disk, in eval mode.

    Args:
        name: `efficientnet_lite0`, `scenes_vit`, `scenes_cnn`, `timm/NAME`, `torchvision/NAME`, `hf/REPO`,
            `open_clip/MODEL:PRETRAINED` (`list_models` lists them), a folder in the Hugging Face format, or a
            checkpoint file.
        architecture: For a checkpoint file, the name of the model that it fits; None: recognized where the names
            and shapes of the weights tell (ViT in DINO's names, ResNet).
        device: None: a CUDA device where there is one, else the CPU.
        pretrained: Whether weights are loaded, or drawn at random.
        zero_shot: Of a model of images and texts: the texts that are its classes (`VisionModel.zero_shot`).
        templates: What the texts are put into (`"a photo of a {}."`); several are averaged.
        **options: Passed on to the source (`num_classes=…`).

    Raises:
        UnknownNameError: There is no such model; the nearest are suggested.
        MissingExtraError: The library is not installed; the message has the pip command.
        WeightsError: The weights cannot be read safely, or do not fit the architecture.
        ModelError: The folder holds no model.
        OptionError: There is no such device, or an option does not go with the model.
        TargetError: The model has no text side, or a text cannot be used.
    """
    place = _device(device)
    with torch.inference_mode(False):  # nothing could be differentiated through weights that are made inside
        model = _open(os.fspath(name), architecture, pretrained, options)
        model.module.eval()
        if zero_shot is not None:
            model = model.zero_shot(zero_shot, templates)
        return model.to(place)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that `load_model` knows, from the libraries that are installed, matching a shell pattern."""
    return sorted(fnmatch.filter(_all_names(), pattern))


def source_of(module: nn.Module) -> ModelSource | None:
    """Return the source whose `structure` knows this module; libraries that are not in use are not imported."""
    for source in SOURCES.values():
        if source.PACKAGE not in sys.modules:
            continue
        try:
            if source.recognizes(module):
                return source
        except Exception as error:  # of another package: it must not cost the others
            _warn_of(source, "cannot tell whether it knows a module", error)
    return None


def source_packages() -> tuple[str, ...]:
    """Return the distributions that models come from, sorted, whether or not they are installed."""
    return tuple(sorted({package for source in SOURCES.values() for package in source.DISTRIBUTIONS}))


def _open(name: str, architecture: str | None, pretrained: bool, options: dict[str, Any]) -> VisionModel:
    path = Path(name).expanduser()
    source = _source(name)
    is_file = not source and (path.is_file() or path.suffix in checkpoints.SUFFIXES)
    if architecture is not None and not is_file:
        raise OptionError(f"architecture= goes with a checkpoint file, which {name!r} is not; leave it out")
    if source:
        return source.load(name.removeprefix(source.PREFIX), pretrained=pretrained, **options)
    if is_file:
        return _from_checkpoint(path, architecture, options)
    if path.is_dir():
        return _from_folder(path, pretrained, options)
    raise UnknownNameError(
        "model", name, _nearest(name), "`seewhy models` lists the names; a path must lead to a file or folder"
    )


def _source(name: str) -> ModelSource | None:
    """Return the source of a model's name, by its prefix or by a name of its own."""
    for source in SOURCES.values():
        if name.startswith(source.PREFIX) if source.PREFIX else name in _names(source):
            return source
    return None


def _from_folder(path: Path, pretrained: bool, options: dict[str, Any]) -> VisionModel:
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{path} has no config.json, so it is not a model folder; save one with save_pretrained(…), "
            "or pass the checkpoint file"
        )
    return SOURCES["hf"].load(str(path), pretrained=pretrained, **options)


def _from_checkpoint(path: Path, architecture: str | None, options: dict[str, Any]) -> VisionModel:
    state, layout = checkpoints.strip_layout(checkpoints.read_state(path))
    if architecture is None:
        architecture, defaults = checkpoints.recognize(state) or (None, {})
        options = {**defaults, **options}
    if architecture is None:
        raise WeightsError(
            f"cannot infer the architecture of {path} ({layout} layout); pass architecture='timm/…' or 'torchvision/…'"
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
    for source in SOURCES.values():
        yield from (source.PREFIX + name for name in _names(source))


def _names(source: ModelSource) -> list[str]:
    """Return a source's names; none if its library is missing, or (with a warning) if another package is broken."""
    try:
        return source.names()
    except MissingExtraError:
        return []
    except Exception as error:
        _warn_of(source, "cannot list its models", error)
        return []


def _warn_of(source: ModelSource, problem: str, error: Exception) -> None:
    warnings.warn(
        f"the model source {getattr(source, '__name__', source)!r} {problem} "
        f"({type(error).__name__}: {first_line(error)}); update or uninstall its package",
        stacklevel=4,
    )


def _nearest(name: str, n: int = 4) -> list[str]:
    """Return names like this one, in any source: `resnet50` is near `torchvision/resnet50` and `timm/resnet50`."""
    by_architecture: dict[str, list[str]] = {}
    for known in _all_names():
        by_architecture.setdefault(_architecture_of(known), []).append(known)
    wanted = _architecture_of(name)
    near = [wanted] if wanted in by_architecture else []
    near = near or difflib.get_close_matches(wanted, by_architecture, n=n, cutoff=0.7)
    firsts: list[str] = []
    for architecture in near:
        # the first of each source: a name like resnet50 has a dozen sets of weights in timm
        of_source: dict[str, str] = {}
        for known in by_architecture[architecture]:
            of_source.setdefault(known.split("/")[0], known)
        firsts += of_source.values()
    if firsts:
        return firsts[:n]
    last_part = name.split("/")[-1].lower()
    return [known for known in _all_names() if last_part in known.lower()][:n]


def _architecture_of(name: str) -> str:
    """Return the part of a name between source and weights, in lower case."""
    return name.split("/")[-1].split(".")[0].lower()
