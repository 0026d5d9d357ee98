"""From what a user writes to a configured method."""

from __future__ import annotations

from typing import Any, TypeAlias

from seewhy.core.options import check_option_names, options_of, repeated_options
from seewhy.errors import OptionError
from seewhy.methods.base import METHODS, Method
from seewhy.methods.guards import check_model
from seewhy.models.adapter import VisionModel

MethodLike: TypeAlias = str | type[Method] | Method
"""A method's name, a method class, or a configured method."""

ARGUMENTS = ("image", "method", "target", "batch_size", "max_pixels")
"""The arguments of `seewhy.explain` beside the options: what a name that is no option may have meant."""

DEFAULTS = ("cdam", "grad_cam", "occlusion", "relax")
"""What explains a model when no method is named: the first of these that can serve it."""

QUICK = {"n_samples": 10, "n_steps": 10, "n_masks": 200, "top_k": 64}
"""Repetitions for an overview of many methods; each method's default is larger."""

QUICK_OTHERS = 10
"""Repetitions for options of other names."""


def list_methods(pattern: str = "*") -> list[str]:
    """Return the names of all methods that match a shell pattern, sorted."""
    return METHODS.names(pattern)


def as_method(model: VisionModel, method: MethodLike | None = None, **options: Any) -> Method:
    """Return a configured method for a model.

    Args:
        model: The model that is to be explained.
        method: A name, a class or a configured method; by default the first of `DEFAULTS` that can serve the model.
        **options: Options of the method.

    Raises:
        UnknownNameError: There is no method of that name; the message suggests the nearest.
        RequirementError: The method cannot serve the model.
        OptionError: The method has no such option, or the option cannot have this value.
    """
    if isinstance(method, Method):
        if options:
            raise OptionError("the method is configured already; pass the options where you made it")
        return method
    check_model(model)
    if method is None:
        method = next((name for name in DEFAULTS if not METHODS[name].why_incompatible(model)), DEFAULTS[0])
    cls = METHODS[method] if isinstance(method, str) else method
    check_option_names(cls.card.title, options, options_of(cls), ARGUMENTS)
    return cls(model, **options)


def quick_options(method: type[Method]) -> dict[str, int]:
    """Return a method's numbers of repetitions, small enough for an overview."""
    return {name: QUICK.get(name, QUICK_OTHERS) for name in repeated_options(method)}
