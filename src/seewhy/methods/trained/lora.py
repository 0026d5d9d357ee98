"""Low-rank adaptation of an encoder that stays as it is: ΔW x is added to what a layer gives, by a hook.

Training goes through `peft` (`seewhy.training.lora`); here its deltas are applied, without the library and without
merging them into any weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from seewhy.errors import RequirementError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import hooked

PREFIX = "lora."


def lora_layers(model: VisionModel, blocks: Sequence[int]) -> dict[str, nn.Linear]:
    """Return the linear layers of some blocks by name: those of attention and MLP that run as modules.

    The projections of `nn.MultiheadAttention` (open_clip, torchvision) are read by its own kernel and never run, so
    that of those models it is the MLPs that are adapted.

    Args:
        model: The encoder.
        blocks: Numbers of blocks, from 0.

    Raises:
        RequirementError: There is none.
    """
    found = {}
    for block in (model.structure.blocks[i].name for i in blocks):
        for name, part in model.submodule(block).named_modules():
            if isinstance(part, nn.Linear) and not isinstance(part, NonDynamicallyQuantizableLinear):
                found[f"{block}.{name}"] = part
    if not found:
        raise RequirementError(f"{model.name} has no linear layer for LoRA in these blocks; use lora_rank=0")
    return found


@contextmanager
def lora_applied(model: VisionModel, state: Mapping[str, Tensor], scale: float) -> Iterator[None]:
    """In the block, each adapted layer gives W x + scale · B A x (Hu et al., LoRA, ICLR 2022, eq. 3).

    Args:
        model: The encoder.
        state: Tensors `lora.<layer>.A` (rank, inputs) and `lora.<layer>.B` (outputs, rank); others are left aside.
        scale: α / rank.
    """
    names = [name[len(PREFIX) : -2] for name in state if name.startswith(PREFIX) and name.endswith(".A")]
    with ExitStack() as stack:
        for name in names:
            add = partial(_add, state[f"{PREFIX}{name}.A"], state[f"{PREFIX}{name}.B"], scale)
            stack.enter_context(hooked(model.submodule(name), add))
        yield


def _add(a: Tensor, b: Tensor, scale: float, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + F.linear(F.linear(args[0], a), b) * scale
