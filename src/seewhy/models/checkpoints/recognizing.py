"""Tell the architecture of a checkpoint, or which architectures it fits where that is not one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from seewhy.errors import MissingExtraError, require
from seewhy.models.checkpoints.reading import State
from seewhy.models.checkpoints.unwrapping import Checkpoint

VITS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}
"""Sizes of ViTs by the width of their tokens."""

DEPTHS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32, "giant": 40}

RESNETS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 2, 2), 2): "resnet18",
    ((3, 4, 6, 3), 2): "resnet34",
    ((3, 4, 6, 3), 3): "resnet50",
    ((3, 4, 23, 3), 3): "resnet101",
    ((3, 8, 36, 3), 3): "resnet152",
}


@dataclass(frozen=True)
class Candidate:
    """An architecture that a checkpoint fits.

    Attributes:
        name: As `load_model` knows it.
        options: For its source.
        reason: How this one is told from others with the same weights.
        about: How it takes images, for the choice between several.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    about: str = ""


def recognize(checkpoint: Checkpoint, filename: str = "") -> list[Candidate]:
    """Return the architectures that fit: one where the file tells which, several where weights alone cannot.

    Known are ViTs in the names of DINO, DINOv2 and timm, and ResNets. What training wrote beside the weights settles
    it, or the published name of the file; else families that share their weights' shapes but not their preprocessing
    are all returned.

    Args:
        checkpoint: The weights.
        filename: The name of the file, as published weights have theirs.
    """
    fitting = list(_by_shape(checkpoint, "dino" in filename.lower()))
    published = _published(filename)
    if published is not None and any(_family(published.name) == _family(each.name) for each in fitting):
        return [published]
    arch, args = checkpoint.about.get("arch"), checkpoint.about.get("args", {})
    if arch and checkpoint.about.get("timm"):
        return [Candidate(f"timm/{arch}", reason="what timm's training program wrote beside the weights")]
    if arch and not args:  # torchvision's and PyTorch's own training examples
        named = [each for each in fitting if each.name == f"torchvision/{arch}"]
        if named:
            return named
    if checkpoint.is_self_supervised:
        return fitting[:1]
    return _distinct(fitting)


def _by_shape(checkpoint: Checkpoint, named_dino: bool) -> Iterator[Candidate]:
    state = checkpoint.state
    if "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state:
        reason = "DINO's layout" if checkpoint.layout == "dino" else "DINO in its name" if named_dino else ""
        yield from _vits(state, reason)
    elif "layer4.0.conv2.weight" in state and "conv1.weight" in state:
        name = _resnet(state)
        if name:
            weights = {"weights": "IMAGENET1K_V1"} if checkpoint.is_self_supervised else {}
            yield Candidate(f"torchvision/{name}", weights, about="torchvision's margin, bilinear")
            yield Candidate(f"timm/{name}")


def _vits(state: State, dino: str) -> Iterator[Candidate]:
    patch = state["patch_embed.proj.weight"]
    size = VITS.get(len(patch))
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    if size is None or DEPTHS[size] != depth or patch.ndim != 4:
        return
    side = patch.shape[-1]
    if "blocks.0.ls1.gamma" in state:
        registers = "_reg4" if {"register_tokens", "reg_token"} & set(state) else ""
        if side == 14 and size != "huge":
            yield Candidate(f"timm/vit_{size}_patch14{registers}_dinov2", reason="its layer scale and patch")
        return
    if "dist_token" in state:
        yield Candidate(f"timm/deit_{size}_distilled_patch{side}_224", reason="its distillation token")
        return
    has_head = "head.weight" in state
    # DINO's ViTs and their preprocessing are those of `.dino` in timm, key by key
    tag = ".dino" if not has_head and size in ("small", "base") and side in (8, 16) else ""
    plain, deit = f"timm/vit_{size}_patch{side}_224", f"timm/deit_{size}_patch{side}_224"
    if dino and not has_head:
        # sizes that DINO has not published still take images as it does
        yield Candidate(f"{plain}{tag}" if tag else deit, reason=dino)
        return
    if tag:
        yield Candidate(f"{plain}{tag}", about="as MAE and MoCo v3")
    elif side == 16 and size in ("tiny", "small", "base"):
        yield Candidate(deit)
    yield Candidate(plain)


def _resnet(state: State) -> str | None:
    depths = tuple(sum(f"layer{i}.{j}.conv1.weight" in state for j in range(64)) for i in range(1, 5))
    name = RESNETS.get((depths, 3 if "layer1.0.conv3.weight" in state else 2))
    is_plain = name is not None and len(state["layer1.0.conv2.weight"]) == 64  # not a wide one
    return name if is_plain and state["conv1.weight"].shape[-1] == 7 else None


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Leave out what timm does not have, and what takes images as one before it; say how the others do."""
    if not candidates or not _loads("timm"):
        return candidates
    timm = require("timm", "timm")
    kept: dict[Any, Candidate] = {}
    for each in candidates:
        source, _, name = each.name.partition("/")
        if source != "timm":
            kept[each.name] = each
        elif timm.is_model(name.partition(".")[0]):
            config = timm.get_pretrained_cfg(name)
            mean = f"mean {' '.join(f'{value:g}' for value in config.mean)}, crop {config.crop_pct:g}"
            about = f"{mean}, {config.interpolation}{f', {each.about}' * bool(each.about)}"
            kept.setdefault((mean, config.interpolation), replace(each, about=about))
    return list(kept.values())


def _family(name: str) -> str:
    """Return what architectures with the same weights share: their name without source, prefix and tag."""
    return name.rpartition("/")[2].partition(".")[0].removeprefix("vit_").removeprefix("deit_")


def _published(filename: str) -> Candidate | None:
    """Return the weights that are published under this file name, by the libraries in use."""
    if not filename:
        return None
    return _torchvisions(filename) or _timms(filename)


def _torchvisions(filename: str) -> Candidate | None:
    if not _loads("torchvision"):
        return None
    models = require("torchvision", "torchvision").models
    for name in models.list_models(module=models):
        for entry in models.get_model_weights(name):
            if entry.url.endswith(f"/{filename}"):
                return Candidate(f"torchvision/{name}", {"weights": entry.name}, "the published name of the file")
    return None


def _timms(filename: str) -> Candidate | None:
    if not _loads("timm"):
        return None
    timm = require("timm", "timm")
    for name in timm.list_pretrained():
        url = getattr(timm.get_pretrained_cfg(name), "url", None) or ""
        if url.endswith(f"/{filename}"):
            return Candidate(f"timm/{name}", reason="the published name of the file")
    return None


def _loads(package: str) -> bool:
    try:
        require(package, package)
    except MissingExtraError:
        return False
    return True
