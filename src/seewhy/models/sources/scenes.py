"""The reference models of the made world, whose weights ship with the package, as a source of models."""

from __future__ import annotations

import fnmatch

from torch import nn

from seewhy.core.preprocess import Preprocess
from seewhy.errors import OptionError, UnknownNameError
from seewhy.models.adapter import VisionModel
from seewhy.models.reference import scenes
from seewhy.models.structure import Block, Layer, Structure

SIZE = 96


def names(pattern: str = "*") -> list[str]:
    """The models that ship with the package and match a shell pattern."""
    return fnmatch.filter(scenes.shipped(), pattern)


def load(name: str, *, pretrained: bool = True) -> VisionModel:
    """A reference model; offline.

    Raises:
        UnknownNameError: no such model ships with the package.
        OptionError: `pretrained=False` (build one with `seewhy.models.reference.scenes.build`).
    """
    if name not in names():
        raise UnknownNameError("model", name, names())
    if not pretrained:
        raise OptionError("an untrained reference model: seewhy.wrap(seewhy.models.reference.scenes.build('SceneViT'))")
    module, info = scenes.load(name)
    return VisionModel(module, structure(module), name=name, preprocess=preprocess(module), class_names=info["classes"])


def preprocess(module: nn.Module) -> Preprocess:
    """As all models of the made world are trained."""
    return Preprocess(size=(SIZE, SIZE), resize=SIZE, mean=scenes.MEAN, std=scenes.STD)


def recognizes(module: nn.Module) -> bool:
    """Whether the module is one of ours."""
    return isinstance(module, tuple(scenes.ARCHITECTURES.values()))


def structure(module: nn.Module) -> Structure:
    """Stages and head of the CNN; blocks, tokens and head of the ViT. Each logit stands for itself."""
    if isinstance(module, scenes.SceneCNN):
        stages = tuple(Layer(f"layer{i}", "nchw") for i in (1, 2, 3, 4))
        return Structure("scenes", stages=stages, cam_layer=stages[-1], head="fc", multi_label=True)
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
