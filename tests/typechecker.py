"""Check the shapes and types of tensors in signatures; everything else is the static type checkers' work.

Bad input must meet our own errors, not the checker's: only annotations of jaxtyping are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))
_SHAPED = re.compile(r"\b(Shaped|Num|Real|Inexact|Float\d*|BFloat16|Complex|Integer|U?Int\d*|Bool)\[")

F = TypeVar("F", bound=Callable[..., Any])


def check(function: F) -> F:
    """Let beartype check the annotations that speak of shapes."""
    annotations = getattr(function, "__annotations__", {})
    if isinstance(function, type) or not annotations:
        return function
    function.__annotations__ = {name: hint if _is_shaped(hint) else Any for name, hint in annotations.items()}
    try:
        return _beartype(function)
    finally:
        function.__annotations__ = annotations


def _is_shaped(hint: Any) -> bool:
    return bool(_SHAPED.search(hint if isinstance(hint, str) else repr(hint)))
