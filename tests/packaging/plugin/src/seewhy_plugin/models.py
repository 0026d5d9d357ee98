"""A model source: one small network with random weights."""

from __future__ import annotations

import fnmatch
from typing import Any

import torch
from torch import nn

from seewhy import Preprocess
from seewhy.errors import UnknownNameError
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer, Structure

PREFIX = "plugin/"
PACKAGE = "seewhy_plugin"
DISTRIBUTIONS = ("seewhy-plugin",)
EXTRA = ""


class Net(nn.Sequential):
    """Convolution, ReLU, pooling, linear."""

    def __init__(self) -> None:
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        super().__init__(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), head)


def names(pattern: str = "*") -> list[str]:
    """Return the names that match."""
    return fnmatch.filter(["net"], pattern)


def load(name: str, *, pretrained: bool = True, **options: Any) -> VisionModel:
    """Make the network."""
    if name not in names():
        raise UnknownNameError("plugin model", name, names(), "there is one: plugin/net")
    torch.manual_seed(0)
    module = Net().eval()
    return VisionModel(
        module,
        structure(module),
        name=f"plugin/{name}",
        preprocess=Preprocess(size=(32, 32), resize=32),
        class_names=["dark", "light"],
    )


def recognizes(module: nn.Module) -> bool:
    """Tell whether a module is ours."""
    return isinstance(module, Net)


def structure(module: nn.Module) -> Structure:
    """Tell where the module keeps what."""
    layer = Layer("1", "nchw")
    return Structure("plugin", stages=(layer,), cam_layer=layer, head="2.2")
