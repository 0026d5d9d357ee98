"""A configured method for another model of the same structure."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import nn

from seewhy.methods.base import Method
from seewhy.models.adapter import VisionModel


def rebind(method: Method, model: VisionModel) -> Method:
    """Return the same method for a copy of its model.

    Args:
        method: The method as it is configured; it stays as it is.
        model: A model of the same structure. Layers that were given as modules are looked up in it by their name.
    """
    names = {module: name for name, module in method.model.module.named_modules()}
    options = {
        field.name: _modules_by_name(getattr(method, field.name), names)
        for field in fields(method)
        if field.init and field.name != "model"
    }
    if method.card.trained:  # its weights are checked against the encoder's, which a random copy has not
        options["verify"] = False
    return type(method)(**options, model=model)


def _modules_by_name(value: Any, names: dict[nn.Module, str]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_modules_by_name(each, names) for each in value)
    return names.get(value, value) if isinstance(value, nn.Module) else value
