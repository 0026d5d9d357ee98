"""Adapters: one file per source of models, and the contract that they all fill in (`adapter.py`)."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Block": "adapter",
    "Layer": "adapter",
    "Structure": "adapter",
    "VisionModel": "adapter",
    "list_models": "load",
    "load_model": "load",
    "wrap": "generic",
    "wrap_function": "black_box",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
