"""Read weights safely, take off what training wrapped round them, and load them into an architecture."""

from __future__ import annotations

import argparse
import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.core.io import first_line
from seewhy.errors import WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Structure

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
"""How the names of checkpoint files end."""

State = Mapping[str, Tensor]
"""Weights by name, as `nn.Module.state_dict` gives them."""


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def read_state(path: str | Path) -> dict[str, Any]:
    """Return what a checkpoint file holds, on the CPU; no code in it is ever run.

    Raises:
        WeightsError: There is no such file, it is damaged or not a checkpoint, or reading it would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no file {path}; check the path")
    content = _read(path)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}, not weights by name; save model.state_dict()")
    return dict(content)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # DINO's files hold the training options beside the weights, as a Namespace, which is only a record
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise WeightsError(
                f"{path} holds Python objects beside weights, and reading those could run code; if you "
                "trust it, open it yourself and torch.save(model.state_dict(), …)"
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:  # zip, pickle and safetensors each have their own ways to be broken
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = first_line(error, limit=120)
    if not any(map(str.isalpha, reason)):  # a KeyError says no more than its key
        reason = type(error).__name__
    return WeightsError(f"{path} is damaged or not a checkpoint ({reason}); download it again, or save it once more")


# ── unwrapping ────────────────────────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Wrapping:
    """Layout of a training program's checkpoint: the trunk under a prefix, beside heads of no use here.

    Attributes:
        name: What it is called in messages.
        prefix: How the names of the trunk's weights start.
        drop: How the names of its own heads' weights start.
    """

    name: str
    prefix: str
    drop: tuple[str, ...] = ()


WRAPPINGS = (
    Wrapping("moco", "encoder_q.", ("fc.", "head.")),
    Wrapping("moco", "base_encoder.", ("fc.", "head.")),
    Wrapping("simclr", "encoder.", ("fc.",)),  # lightning-bolts; SimSiam's is the same
    Wrapping("vissl", "_feature_blocks."),
    Wrapping("dino", "backbone."),
    Wrapping("wrapped", "model."),
    Wrapping("swav", "", ("projection_head.", "prototypes.")),
)
CONTAINERS = ("classy_state_dict", "base_model", "teacher", "state_dict", "model_state_dict", "model", "trunk")
ROOTS = ("conv1.weight", "patch_embed.proj.weight", "conv_stem.weight", "conv_proj.weight")
SHELLS = ("module.", "_orig_mod.")


def strip_layout(content: Mapping[str, Any]) -> tuple[State, str]:
    """Return the weights of the trunk (and of its classifier, if it was trained), and what they were wrapped in.

    Known: DINO (plain, or student and teacher), SimCLR of lightning-bolts, VISSL, SwAV, MoCo, and the containers and
    prefixes of training loops, DataParallel and torch.compile.

    Raises:
        WeightsError: There are no weights in it.
    """
    while not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            raise WeightsError(
                f"no weights found under {', '.join(map(str, list(content)[:5]))}; save model.state_dict() alone"
            )
        content = inner
    state: State = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    while shell := next((s for s in SHELLS if all(key.startswith(s) for key in state)), None):
        state = _under(state, shell)
    for wrapping in WRAPPINGS:
        trunk = _under(state, wrapping.prefix)
        kept = {key: value for key, value in trunk.items() if not key.startswith(wrapping.drop)}
        if any(root in kept for root in ROOTS) and (wrapping.prefix or len(kept) < len(state)):
            return kept, wrapping.name
    return state, "plain"


def _under(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


# ── recognizing ───────────────────────────────────────────────────────────────────────────────────────────────────────
VITS = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
"""Sizes of ViTs by the width of their tokens."""

RESNETS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 2, 2), 2): "resnet18",
    ((3, 4, 6, 3), 2): "resnet34",
    ((3, 4, 6, 3), 3): "resnet50",
    ((3, 4, 23, 3), 3): "resnet101",
    ((3, 8, 36, 3), 3): "resnet152",
}


def recognize(state: State) -> tuple[str, dict[str, str]] | None:
    """Return the architecture that names and shapes tell, with options; None: they tell none.

    It is a ViT in DINO's (and timm's) names, or a ResNet. DINO's ViTs and their preprocessing are those of
    `vit_…_patch….dino` in timm, key by key; self-supervised ResNets take images as torchvision's first ImageNet weights
    do.
    """
    patch = state.get("patch_embed.proj.weight")
    if patch is not None and "blocks.0.attn.qkv.weight" in state:
        size = VITS.get(len(patch))
        return (f"timm/vit_{size}_patch{patch.shape[-1]}_224{_dino_tag(patch)}", {}) if size else None
    if "layer4.0.conv2.weight" not in state:
        return None
    depths = tuple(sum(f"layer{i}.{j}.conv1.weight" in state for j in range(64)) for i in range(1, 5))
    name = RESNETS.get((depths, 3 if "layer1.0.conv3.weight" in state else 2))
    is_plain = name is not None and len(state["layer1.0.conv2.weight"]) == 64  # not a wide one
    return (f"torchvision/{name}", {"weights": "IMAGENET1K_V1"}) if is_plain else None


def _dino_tag(patch: Tensor) -> str:
    return ".dino" if len(patch) in (384, 768) and patch.shape[-1] in (8, 16) else ""


# ── loading ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def load_state(model: VisionModel, state: State, name: str) -> VisionModel:
    """Return `model` with these weights. Its head follows the checkpoint: another number of classes, or none at all.

    Args:
        model: A model of the architecture; its module is changed.
        state: The weights.
        name: Of the new model.

    Raises:
        WeightsError: Anything but the head differs; the first names are listed.
    """
    structure = _fit_head(model, state)
    class_names = model.class_names if structure is model.structure else None
    load_into(model.module, state)
    return VisionModel(model.module, structure, name=name, preprocess=model.preprocess, class_names=class_names)


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
            "were trained in with architecture='timm/…' or 'torchvision/…'"
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
