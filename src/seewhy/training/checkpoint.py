"""Weights and states of runs in files: safetensors with JSON in the header, written whole or not at all.

Nothing in them is code, and reading never runs any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seewhy.core.io import atomic_file, first_line, json_default
from seewhy.errors import SeewhyError, WeightsError

_HEADER = "seewhy"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any] | None = None) -> None:
    """Write tensors and what is to be known of them; if that fails (a full disk), the file stays as it was.

    Args:
        path: The file, `….safetensors`.
        tensors: By name; each is copied, so they may share memory.
        info: JSON for the file's header.

    Raises:
        SeewhyError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    try:
        with atomic_file(path) as draft:
            save_file(copies, draft, {_HEADER: json.dumps(info or {}, default=json_default)})
    except (OSError, SafetensorError) as error:
        kept = "; the one from before is kept" if path.exists() else ""
        raise SeewhyError(f"cannot write {path} ({first_line(error, 100)}){kept}; make room, then go on") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote, onto the CPU.

    Args:
        path: The file.

    Returns:
        The tensors by name, and the JSON of the header (empty where there is none of ours).

    Raises:
        WeightsError: There is no such file, or it is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, info  # noqa: SIM118  # no dict
    except FileNotFoundError:
        raise WeightsError(f"there is no {path}; check the folder") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({first_line(error, 100)}); it is damaged") from error


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
