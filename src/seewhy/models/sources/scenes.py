"""The reference models of the synthetic scenes, whose weights ship with the package, as a source of models."""

from __future__ import annotations

import fnmatch
from typing import Any

import torch
from torch import nn

from seewhy.core.preprocess import Preprocess
from seewhy.errors import UnknownNameError
from seewhy.models.adapter import VisionModel
from seewhy.models.reference import scenes
from seewhy.models.structure import Block, Layer, Structure

PREFIX = ""
PACKAGE = "seewhy.models.reference.scenes"
DISTRIBUTIONS: tuple[str, ...] = ()
EXTRA = ""
SIZE = 96
"""Side of the images, in pixels."""


def names(pattern: str = "*") -> list[str]:
    """Return the models that ship with the package and match a shell pattern."""
    return fnmatch.filter(scenes.shipped(), pattern)


def load(name: str, *, pretrained: bool = True) -> VisionModel:
    """Load a reference model; offline.

    Args:
        name: Of `names()`.
        pretrained: Whether it has its weights, or fresh ones: always the same, so that an untrained network can stand
            beside the trained one in a plan.

    Raises:
        UnknownNameError: No such model ships with the package.
    """
    if name not in names():
        raise UnknownNameError("model", name, names())
    with torch.random.fork_rng(devices=[]):
        module, info = scenes.load(name)
        if not pretrained:
            torch.manual_seed(0)
            module = scenes.build(info["architecture"], **info["options"]).eval()
    return VisionModel(module, structure(module), name=name, preprocess=preprocess(module), class_names=info["classes"])


def preprocess(module: nn.Module) -> Preprocess:
    """Return the preprocessing with which all reference models are trained."""
    side = (SIZE, SIZE)
    return Preprocess(size=side, resize=SIZE, mean=scenes.MEAN, std=scenes.STD, origin="as the model was trained")


def recognizes(module: nn.Module) -> bool:
    """Tell whether the module is one of ours."""
    return isinstance(module, tuple(scenes.ARCHITECTURES.values()))


def structure(module: nn.Module) -> Structure:
    """Tell where a reference model keeps what. Each logit stands for itself."""
    if isinstance(module, scenes.SceneCNN):
        stages = tuple(Layer(f"layer{i}", "nchw") for i in (1, 2, 3, 4))
        return Structure("scenes", stages=stages, cam_layer=stages[-1], head="fc", multi_label=True)
    return _vit(module)


def _vit(module: Any) -> Structure:
    blocks = tuple(Block(f"blocks.{i}", f"blocks.{i}.norm1", f"blocks.{i}.attn") for i in range(len(module.blocks)))
    return Structure(
        "scenes",
        stages=tuple(Layer(block.name, "tokens") for block in blocks),
        cam_layer=Layer(blocks[-1].norm1, "tokens"),
        blocks=blocks,
        prefix_tokens=module.num_prefix_tokens,
        class_token=module.pool == "cls",
        patch_size=module.patch_embed.patch_size,
        head="head",
        multi_label=True,
    )
