"""Weights in files: safetensors with JSON in the header, written whole or not at all.

Nothing in them is code, and reading never runs any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def read_info(path: Path) -> dict[str, Any]:
    """Read the JSON of a file's header; empty where there is none of ours, or the file is of another kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
    except (OSError, SafetensorError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_state(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: object) -> None:
    """Check that weights are those of a module.

    Args:
        found: What a file holds.
        expected: What the module has.
        source: The file, for people.

    Raises:
        WeightsError: A name is missing or unknown, or a shape differs.
    """
    names = [*(name for name in expected if name not in found), *(name for name in found if name not in expected)]
    if names:
        kind = "lacks" if names[0] in expected else "also has"
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise WeightsError(
            f"{source} belongs to another architecture: it {kind} {names[0]!r}{more}; pass its own model"
        )
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise WeightsError(
                f"{source} belongs to another architecture: {name!r} is {tuple(found[name].shape)} there and "
                f"{tuple(value.shape)} here; pass its own model"
            )
