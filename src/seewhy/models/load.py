"""From a name or a path to a model that can be explained."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seewhy.core.preprocess import Preprocess
from seewhy.errors import ModelError, OptionError, UnknownNameError, WeightsError
from seewhy.models import checkpoints
from seewhy.models.adapter import PreprocessFunction, VisionModel
from seewhy.models.catalog import all_names, nearest, source_named, warn_of
from seewhy.models.class_names import ClassNames, read_class_names
from seewhy.models.finetuned import base_of, finetuned_info, load_finetuned
from seewhy.models.heads import HeadLike, attach_head
from seewhy.models.layers import input_channels
from seewhy.models.projection import attach_projection
from seewhy.models.sources.base import SOURCES, FollowsCheckpoints, ModelSource
from seewhy.models.text import PLAIN

Name = str | os.PathLike[str]
"""The name of a model, or a path."""

FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""How the weights of a folder with config.json are called."""


def load_model(
    name: Name,
    *,
    architecture: str | None = None,
    head: HeadLike | None = None,
    class_names: ClassNames | None = None,
    preprocess: PreprocessFunction | Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    pretrained: bool = True,
    zero_shot: Sequence[str] | None = None,
    templates: Sequence[str] = PLAIN,
    projection: bool = False,
    **options: Any,
) -> VisionModel:
    """Open a model by name or from disk, in eval mode.

    Args:
        name: `efficientnet_lite0`, `scenes_vit`, `scenes_cnn`, `timm/NAME`, `torchvision/NAME`, `hf/REPO`,
            `open_clip/MODEL:PRETRAINED` (`list_models` lists them), a folder in the Hugging Face format or of
            `seewhy train finetune`, or a checkpoint file.
        architecture: For a checkpoint file, the name of the model that it fits; None: recognized where the file tells.
        head: A linear classifier for it: a file, an `nn.Linear`, or one of scikit-learn (`seewhy.models.heads`).
        class_names: See `seewhy.models.class_names.read_class_names`.
        preprocess: A function from a PIL image to (channels, rows, cols); or what differs from the model's own, as
            `{"mean": 0.5, "std": 0.5, "size": 384}` (see `Preprocess.changed`).
        device: None: a CUDA device where there is one, else the CPU.
        pretrained: Whether weights are loaded, or drawn at random.
        zero_shot: Of a model of images and texts: the texts that are its classes (`VisionModel.zero_shot`).
        templates: What the texts are put into (`"a photo of a {}."`); several are averaged.
        projection: Of a checkpoint of SwAV: whether the embedding is its projection (128 numbers of unit length, what
            training compares), not what the backbone gives.
        **options: Passed on to the source (`num_classes=…`).

    Raises:
        UnknownNameError: There is no such model; the nearest are suggested.
        MissingExtraError: The library is not installed; the message has the pip command.
        WeightsError: The weights cannot be read safely, or do not fit the architecture, or fit several.
        ModelError: The folder holds no model.
        OptionError: There is no such device, or an option does not go with the model.
        TargetError: The model has no text side, or a text cannot be used.
    """
    place = _device(device)
    _refuse_code(options)
    changes = dict(preprocess) if isinstance(preprocess, Mapping) else {}
    with torch.inference_mode(False):  # nothing could be differentiated through weights that are made inside
        model = _open(os.fspath(name), architecture, pretrained, options, changes.get("size"))
        if projection:
            model = _projected(model, os.fspath(name))
        if callable(preprocess):
            model.preprocess = preprocess
        model = finished(model, head, class_names, changes, place)
        return model if zero_shot is None else model.zero_shot(zero_shot, templates)


def finished(
    model: VisionModel,
    head: HeadLike | None,
    class_names: ClassNames | None,
    changes: Mapping[str, Any],
    device: torch.device | str | None,
) -> VisionModel:
    """Return a model with a head, class names and preprocessing that somebody gives, in eval mode on a device.

    Args:
        model: The model.
        head: As in `load_model`.
        class_names: As in `load_model`.
        changes: What differs from the model's preprocessing.
        device: As in `load_model`.

    Raises:
        SeewhyError: As `load_model`.
    """
    place = _device(device)
    if head is not None:
        model = attach_head(model, head)
    if changes:
        model.preprocess = _changed(model, changes)
    model.class_names = _names_for(model, class_names) or model.class_names
    model.module.eval()
    return model.to(place)


def _projected(model: VisionModel, name: str) -> VisionModel:
    path = _path(name)
    if source_named(name) or not path.is_file():
        raise OptionError(f"projection goes with a checkpoint file, which {name!r} is not; leave it out")
    weights = checkpoints.unwrap(checkpoints.read_state(path)).projection
    return attach_projection(model, weights, path.name)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that `load_model` knows, from the libraries that are installed, matching a shell pattern."""
    return sorted(fnmatch.filter(all_names(), pattern))


def source_of(module: nn.Module) -> ModelSource | None:
    """Return the source whose `structure` knows this module; libraries that are not in use are not imported."""
    for source in SOURCES.values():
        if source.PACKAGE not in sys.modules:
            continue
        try:
            if source.recognizes(module):
                return source
        except Exception as error:  # of another package: it must not cost the others
            warn_of(source, "cannot tell whether it knows a module", error)
    return None


def source_packages() -> tuple[str, ...]:
    """Return the distributions that models come from, sorted, whether or not they are installed."""
    return tuple(sorted({package for source in SOURCES.values() for package in source.DISTRIBUTIONS}))


def _refuse_code(options: Mapping[str, Any]) -> None:
    """Refuse options that would run code of a repository or folder, or read its pickles."""
    for option in ("trust_remote_code", "weights_only"):
        if option in options:
            raise OptionError(
                f"load_model never runs code that comes with weights, so it takes no {option}; load the module with "
                "its library and use seewhy.wrap(module)"
            )


def _changed(model: VisionModel, changes: Mapping[str, Any]) -> Preprocess:
    if not isinstance(model.preprocess, Preprocess):
        raise OptionError(f"{model.name} has a preprocess function of its own, of which nothing can be changed")
    return model.preprocess.changed(**changes)


def _names_for(model: VisionModel, class_names: ClassNames | None) -> tuple[str, ...] | None:
    names = read_class_names(class_names)
    if names and model.classes not in (None, len(names)):
        raise OptionError(f"{len(names)} class names for {model.classes} classes; give one for each")
    return tuple(names) if names else None


Size = int | tuple[int, int] | None


def _open(
    name: str, architecture: str | None, pretrained: bool, options: dict[str, Any], size: Size = None
) -> VisionModel:
    path = _path(name)
    source = source_named(name)
    is_file = not source and (path.is_file() or path.suffix in checkpoints.SUFFIXES)
    if architecture is not None and not is_file:
        raise OptionError(f"architecture= goes with a checkpoint file, which {name!r} is not; leave it out")
    if source:
        model = source.load(name.removeprefix(source.PREFIX), pretrained=pretrained, **options)
        sized = _options_for_size(source, model, size, options)
        return (
            source.load(name.removeprefix(source.PREFIX), pretrained=pretrained, **options, **sized) if sized else model
        )
    if is_file:
        beside = path.parent / "config.json"
        if architecture is None and beside.is_file() and path.name in FOLDER_WEIGHTS:
            return _from_folder(path.parent, pretrained, options)
        return _from_checkpoint(path, architecture, options, size)
    if path.is_dir():
        return _from_folder(path, pretrained, options)
    raise UnknownNameError(
        "model", name, nearest(name), "`seewhy models` lists the names; a path must lead to a file or folder"
    )


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~ of a user that there is not
        return Path(name)


def _options_for_size(
    source: ModelSource, model: VisionModel, size: Size, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options with which a model that takes one size only takes the one that was asked for."""
    if size is None or not isinstance(source, FollowsCheckpoints):
        return {}
    rows, cols = (size, size) if isinstance(size, int) else size
    return {k: v for k, v in source.options_for_size(model.module, rows, cols).items() if k not in options}


def _from_folder(path: Path, pretrained: bool, options: dict[str, Any]) -> VisionModel:
    info = finetuned_info(path)
    if info:
        base = base_of(info, path)
        source = source_named(base["name"])
        fetched = source is None or not source.PREFIX  # the weights come from the folder in any case
        model = _open(base["name"], base["architecture"], fetched, {**base["options"], **options}, base["size"])
        return load_finetuned(path, model)
    config = path / "config.json"
    if not config.is_file():
        raise ModelError(
            f"{path} has no config.json, so it is not a model folder; save one with save_pretrained(…), "
            "or pass the checkpoint file"
        )
    if _is_timms(config):
        return SOURCES["timm"].load(f"local-dir:{path}", pretrained=pretrained, **options)
    return SOURCES["hf"].load(str(path), pretrained=pretrained, **options)


def _is_timms(config: Path) -> bool:
    try:
        content = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError):
        return False  # the library says what is wrong with it
    return isinstance(content, dict) and "architecture" in content and "model_type" not in content


def _from_checkpoint(path: Path, architecture: str | None, options: dict[str, Any], size: Size) -> VisionModel:
    content = checkpoints.read_state(path)
    chosen = checkpoints.Candidate(architecture) if architecture else _recognized(path, content)
    source = source_named(chosen.name)
    if source is None:
        raise UnknownNameError("architecture", chosen.name, nearest(chosen.name))
    given = {**chosen.options, **options}
    model = _open(chosen.name, None, False, given, size)

    def reopen(more: Mapping[str, Any]) -> VisionModel:
        return _open(chosen.name, None, False, {**given, **more}, size)

    fixed = set(options) | ({"img_size", "image_size"} if size is not None else set())
    model = checkpoints.fit(model, content, source, reopen, fixed, path.name)
    if chosen.reason:
        note = f"recognized as {chosen.name} by {chosen.reason}"
        model.structure = replace(model.structure, note="; ".join(filter(None, (model.structure.note, note))))
    if isinstance(model.preprocess, Preprocess):
        model.preprocess = _as_trained(model.preprocess, content).with_channels(input_channels(model.module))
    return model


def _recognized(path: Path, content: Mapping[str, Any]) -> checkpoints.Candidate:
    checkpoint = checkpoints.unwrap(content)
    candidates = checkpoints.recognize(checkpoint, path.name)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        fits = " and ".join(f"{each.name} ({each.about})" for each in candidates)
        raise WeightsError(
            f"{path} fits {fits}, which have the same weights and take images differently; say which with "
            f"architecture='{candidates[0].name}' / --architecture"
        )
    raise WeightsError(
        f"cannot infer the architecture of {path} ({checkpoint.layout} layout); pass architecture='timm/…' or "
        "'torchvision/…' / --architecture"
    )


def _as_trained(preprocess: Preprocess, content: Mapping[str, Any]) -> Preprocess:
    """Return the preprocessing with what timm's training program wrote beside the weights."""
    args = content.get("args")
    values = vars(args) if isinstance(args, argparse.Namespace) else {}
    names = {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop_pct": "crop"}
    written = {new: values[old] for old, new in names.items() if values.get(old)}
    if written.get("interpolation") in ("random", "random,bilinear"):
        del written["interpolation"]
    if not written or "model" not in values:
        return preprocess
    return replace(
        preprocess.changed(**written), origin=f"{preprocess.origin}; {', '.join(written)} as in training (args)"
    )


def _device(device: torch.device | str | None) -> torch.device:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise OptionError(f"there is no device {str(device)!r}; use cpu, cuda, cuda:0 or mps") from None
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(place.type, place.type not in ("meta",) and _has(place)):
        raise OptionError(f"there is no device {str(place)!r} here; use device='cpu'")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"there is no device {str(place)!r} here; use device='cpu'")
    return place


def _has(place: torch.device) -> bool:
    """Tell whether a tensor can be made there (xpu, hpu …)."""
    try:
        torch.zeros(1, device=place)
    except (RuntimeError, NotImplementedError, AssertionError):
        return False
    return True
