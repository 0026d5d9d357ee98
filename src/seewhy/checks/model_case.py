"""A model and a batch: what each check of a model works with."""

from __future__ import annotations

from collections.abc import Callable
from unittest import SkipTest

import torch
from torch import Tensor

from seewhy.checks.core import Check, batch_for, entered, named
from seewhy.core.cards import Capability
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.models.structure import Layer
from seewhy.targets import Output

MODEL_CHECKS: list[tuple[str, Check]] = []
"""Every check of an adapter as (name, check), filled by the decorator; `check(model, x=None)`."""


def model_check(fn: Callable[[VisionModel, Tensor], None]) -> Check:
    """Make a public check of a function of a model and a batch, and put it on `MODEL_CHECKS`."""

    def check(model: VisionModel, x: Tensor | None = None) -> None:
        with named(model.name, fn.__name__), torch.no_grad(), untouched(model.module):
            fn(model, batch_for(model, x))

    return entered(MODEL_CHECKS, fn, check)


def answer(output: Output) -> Tensor:
    """Return the logits; of a model without any, the embedding."""
    return output.require(Capability.EMBEDDING) if output.logits is None else output.logits


def depth_of(model: VisionModel) -> int:
    """Return the number of blocks; `SkipTest` if there are none."""
    if not model.structure.blocks:
        raise SkipTest(f"{model.name} has no transformer blocks with global attention")
    return len(model.structure.blocks)


def stages_of(model: VisionModel) -> tuple[Layer, ...]:
    """Return the stages; `SkipTest` if there are none."""
    if not model.structure.stages:
        raise SkipTest(f"{model.name} has no feature maps on a grid")
    return model.structure.stages
