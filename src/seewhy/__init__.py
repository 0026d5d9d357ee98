"""seewhy: what does this model see, and why does it say so?

    model = seewhy.load_model("efficientnet_lite0")
    seewhy.explain(model, "cat.jpg", method="grad_cam", target="tabby").overlay().save("cat.png")

Importing seewhy imports nothing else; names are looked up when they are used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "explain": "seewhy.explainer",
    "explain_each": "seewhy.explainer",
    "compare": "seewhy.explainer",
    "Explanation": "seewhy.explanation",
    "Preprocess": "seewhy.preprocess",
    "load_model": "seewhy.models.load",
    "list_models": "seewhy.models.load",
    "wrap": "seewhy.models.generic",
    "wrap_function": "seewhy.models.black_box",
    "concept": "seewhy.targets",
    "reference": "seewhy.targets",
    "SeewhyError": "seewhy.errors",
}
_MODULES = ("bench", "checks", "data", "errors", "methods", "metrics", "models", "targets", "viz")

__all__ = ["__version__", "list_methods", *_WHERE, *_MODULES]


def list_methods(pattern: str = "*") -> list[str]:
    """The names of all methods that match a shell pattern."""
    return importlib.import_module("seewhy.methods").METHODS.names(pattern)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"seewhy.{name}")
    raise AttributeError(f"module 'seewhy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
