"""The state of an optimizer as tensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seewhy.core.tensor_files import read_tensors as read_tensors, save_tensors as save_tensors


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer as tensors and as JSON."""
    content = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, dict[str, Any]] = {}
    for number, values in content["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}/{key}"] = value
            else:
                rest.setdefault(str(number), {})[key] = value
    return tensors, {"groups": content["param_groups"], "rest": rest}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Put back what `pack_optimizer` returned."""
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in info["rest"].items()}
    for name, value in tensors.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": info["groups"]})
