"""Load weights into an architecture, whose head, input size and channels follow the file."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seewhy.errors import WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.checkpoints.reading import State
from seewhy.models.checkpoints.unwrapping import Checkpoint, unwrap
from seewhy.models.sources.base import FollowsCheckpoints, ModelSource
from seewhy.models.structure import Structure

HEADS = ("head", "fc", "classifier", "linear", "linear_head", "cls_head", "heads", "last_linear", "probe", "logits")
"""How training programs call the classifier that they put behind a model."""

POSITIONS = ("pos_embed", "encoder.pos_embedding")
"""How timm and torchvision call the table of positions."""

Reopen = Callable[[Mapping[str, Any]], VisionModel]
"""From options of the source to a model of the same architecture."""


def fit(
    model: VisionModel,
    content: Mapping[str, Any],
    source: ModelSource,
    reopen: Reopen,
    fixed: Collection[str],
    name: str,
) -> VisionModel:
    """Return a model of the architecture with the weights of a file.

    The classifier follows the file (another number of classes, one behind the model under a name of the training
    program, or none), and so do the input size and the number of channels. Everything else must fit exactly.

    Args:
        model: A model of the architecture; its module is changed.
        content: What the file holds.
        source: The library of the architecture.
        reopen: Makes the architecture with other options.
        fixed: Options that the user gave, which are not changed.
        name: Of the new model.

    Raises:
        WeightsError: Anything but the head differs; the first names are listed.
    """
    checkpoint = unwrap(content, model.module.state_dict())
    state, notes = dict(checkpoint.state), list(checkpoint.notes)
    state, behind = _with_head(model, state, checkpoint)
    notes += behind
    if isinstance(source, FollowsCheckpoints):
        options = {k: v for k, v in source.options_for(model.module, state).items() if k not in fixed}
        if options:
            model = reopen(options)
        state = dict(source.converted(model.module, state))
    notes += _resize_positions(model.module, state)
    _follow_channels(model, state)
    structure = _fit_head(model, state)
    class_names = model.class_names if structure is model.structure else None
    load_into(model.module, state)
    structure = dataclasses.replace(structure, note="; ".join(filter(None, (structure.note, *notes))))
    preprocess = model.preprocess
    return VisionModel(model.module, structure, name=name, preprocess=preprocess, class_names=class_names)


# ── the classifier ────────────────────────────────────────────────────────────────────────────────────────────────────
def _with_head(
    model: VisionModel, state: dict[str, Tensor], checkpoint: Checkpoint
) -> tuple[dict[str, Tensor], list[str]]:
    """Give the file's classifier the name that the architecture has for it; say what was done."""
    own = model.structure.head or _classifier_name(model.module)
    if own is None:
        return state, _left_out(checkpoint.beside)
    if f"{own}.weight" in state:
        return state, _left_out(checkpoint.beside)
    layers = _linear_layers({k: v for k, v in state.items() if k.startswith(f"{own}.")})
    if not layers:  # a head of several parts that was replaced by one layer
        layers = _linear_layers({k: v for k, v in state.items() if k.startswith(f"{own.partition('.')[0]}.")})
    if len(layers) == 1:  # a dropout before it does nothing in eval mode
        (layer,) = layers
        rest = {k: v for k, v in state.items() if k.rpartition(".")[0] != layer}
        return {**rest, **_renamed(state, layer, own)}, []
    if len(layers) > 1:
        raise WeightsError(
            f"the head {own} has {len(layers)} linear layers ({', '.join(layers)}), and the file does not tell what is "
            "between them; build the module in Python, load its state_dict and use seewhy.wrap(module)"
        )
    if checkpoint.is_self_supervised:
        return state, _left_out(checkpoint.beside)
    behind = _linear_layers(checkpoint.beside)
    heads = [layer for layer in behind if layer.rpartition(".")[2] in HEADS or layer.rpartition(".")[2].isdigit()]
    width = _width(model, own)
    heads = [layer for layer in heads if width in (None, behind[layer].shape[1])]
    if len(heads) != 1 or len(behind) > 1:
        return state, _left_out(checkpoint.beside)
    left = {k: v for k, v in checkpoint.beside.items() if not k.startswith(f"{heads[0]}.")}
    note = f"the classifier is {heads[0]} of the file, behind the model"
    return {**state, **_renamed(checkpoint.beside, heads[0], own)}, [note, *_left_out(left)]


def _classifier_name(module: nn.Module) -> str | None:
    """Return where a model without classifier has the place for one."""
    places = (name for name, part in module.named_children() if isinstance(part, nn.Identity) and name in HEADS)
    return next(places, None)


def _linear_layers(state: State) -> dict[str, Tensor]:
    return {key.removesuffix(".weight"): v for key, v in state.items() if key.endswith(".weight") and v.ndim == 2}


def _renamed(state: State, layer: str, name: str) -> dict[str, Tensor]:
    return {f"{name}.{kind}": state[f"{layer}.{kind}"] for kind in ("weight", "bias") if f"{layer}.{kind}" in state}


def _width(model: VisionModel, head: str) -> int | None:
    """Return the width of what enters the classifier, where that is known without a forward."""
    part = model.module.get_submodule(head)
    if isinstance(part, nn.Linear):
        return part.in_features
    width = getattr(model.module, "num_features", None)
    return width if isinstance(width, int) else None


def _left_out(beside: State) -> list[str]:
    tops = list(dict.fromkeys(key.rpartition(".")[0] or key for key in beside))
    return [f"left out of the file: {', '.join(tops[:4])}{' …' * (len(tops) > 4)}"] if tops else []


def _fit_head(model: VisionModel, state: State) -> Structure:
    """Replace the module's head if the checkpoint has another, and return the structure with it."""
    structure, head = model.structure, model.structure.head
    if head is None:
        return structure
    if not any(key.startswith(f"{head}.") for key in state):
        model.module.set_submodule(head, nn.Identity())
        return dataclasses.replace(structure, head=None, has_logits=False, classes=None)
    weight, old = state.get(f"{head}.weight"), model.submodule(head)
    if weight is None or weight.ndim != 2 or not isinstance(old, nn.Linear) or len(weight) == old.out_features:
        return structure
    model.module.set_submodule(head, nn.Linear(old.in_features, len(weight), f"{head}.bias" in state))
    return dataclasses.replace(structure, classes=len(weight))


# ── the input ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _resize_positions(module: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Resize a square table of positions to the input size that was asked for."""
    expected = module.state_dict()
    for key in POSITIONS:
        old, new = state.get(key), expected.get(key)
        if old is None or new is None or old.shape == new.shape or old.ndim != 3 or old.shape[2] != new.shape[2]:
            continue
        side, wanted = (_square(table.shape[1]) for table in (old, new))
        if not side or not wanted or side[1] != wanted[1]:
            continue
        prefix = side[1]
        grid = old[:, prefix:].float().unflatten(1, (side[0], side[0])).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (wanted[0], wanted[0]), mode="bicubic", antialias=True, align_corners=False)
        tokens = grid.flatten(2).transpose(1, 2).to(old)
        state[key] = tokens if not prefix else torch.cat([old[:, :prefix], tokens], 1)
        return [f"the table of positions was resized from {side[0]}×{side[0]} to {wanted[0]}×{wanted[0]}"]
    return []


def _square(n: int) -> tuple[int, int] | None:
    """Return side and prefix of n tokens: a square behind 0, 1 or 2 tokens."""
    sides = ((math.isqrt(n - prefix), prefix) for prefix in (1, 0, 2) if n > prefix)
    return next(((side, prefix) for side, prefix in sides if side**2 + prefix == n), None)


def _follow_channels(model: VisionModel, state: State) -> None:
    """Give the first convolution as many input channels as the file has."""
    for name, part in model.module.named_modules():
        if isinstance(part, nn.Conv2d):
            weight = state.get(f"{name}.weight")
            if part.groups == 1 and weight is not None and weight.ndim == 4 and weight.shape[1] != part.in_channels:
                model.module.set_submodule(name, _conv_like(part, weight.shape[1]))
            return


def _conv_like(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    new = nn.Conv2d(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]  # tuples of two, which the annotation does not tell
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )
    return new.eval()


# ── exactly or not at all ─────────────────────────────────────────────────────────────────────────────────────────────
def load_into(module: nn.Module, state: State) -> None:
    """Load `state`, which must fit exactly; old files may lack batch norm's counters, which only training reads.

    Raises:
        WeightsError: Names or shapes differ; the first of each are listed.
    """
    expected = module.state_dict()
    state = {**{k: v for k, v in expected.items() if k.endswith(".num_batches_tracked")}, **state}
    difference = misfit(expected, state)
    if difference:
        raise WeightsError(
            f"the weights do not fit {type(module).__name__}: {difference}; name the architecture that they "
            "were trained in with architecture='timm/…' or 'torchvision/…', or build the module yourself, load its "
            "state_dict and use seewhy.wrap(module)"
        )
    module.load_state_dict(state)


def misfit(expected: State, state: State) -> str:
    """Describe how the names and shapes of two states differ; empty if they do not."""
    reshaped = [k for k in expected if k in state and expected[k].shape != state[k].shape]
    parts = {
        "missing": [k for k in expected if k not in state],
        "unexpected": [k for k in state if k not in expected],
        "of another shape": [f"{k} ({_size(state[k])} instead of {_size(expected[k])})" for k in reshaped],
    }
    return ", ".join(
        f"{len(keys)} {what}: {', '.join(keys[:3])}{' …' * (len(keys) > 3)}" for what, keys in parts.items() if keys
    )


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
