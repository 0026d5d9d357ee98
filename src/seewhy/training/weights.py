"""Weights in half precision, and where a run took place."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import nn

from seewhy.core.io import atomic_file


def save_half(model: nn.Module, path: Path) -> None:
    """Write the weights in half precision (whole numbers as they are), whole or not at all."""
    from safetensors.torch import save_file

    state = {
        name: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    with atomic_file(path) as draft:
        save_file(state, draft)


def load_half(model: nn.Module, path: Path) -> None:
    """Put weights that `save_half` wrote into a model."""
    from safetensors.torch import load_file

    state = load_file(path)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})


def describe_machine(device: torch.device, precision: str, processes: int) -> str:
    """Return where a run takes place, for people."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{processes} × {where} ({platform.machine()}), {precision}"
