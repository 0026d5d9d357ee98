"""Every error that seewhy raises on purpose.

    SeewhyError
    ├── ImageError              the picture cannot be read or is not one
    ├── DataError               a data set is not laid out as it should be
    ├── TargetError             what should be explained does not exist
    ├── ModelError              the model cannot be loaded or opened up
    │   ├── WeightsError        the weights do not fit, or cannot be read safely
    │   ├── LayoutError         where the model keeps what is ambiguous: the user must say
    │   └── NonFiniteError      the model (or the map) gives NaN or infinity
    ├── ConstantMapError        a map has one value everywhere (command line; in Python it is a warning)
    ├── RequirementError        this method cannot serve this model
    ├── OptionError             an option has an impossible value
    ├── UnknownNameError        a method, model, layer, class … of that name does not exist
    └── MissingExtraError       an optional dependency is not installed

Messages are one line and end with what to do next. Command-line exit codes are `SeewhyError.exit_code`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class SeewhyError(Exception):
    """Base of all errors that seewhy raises on purpose."""

    exit_code = 1


class ImageError(SeewhyError):
    """A picture is missing, truncated, too large, or not a picture."""

    exit_code = 3


class DataError(SeewhyError):
    """A data set's folder or annotation is not what it should be."""

    exit_code = 9


class TargetError(SeewhyError):
    """The target (class, concept, output) does not exist for this model."""

    exit_code = 4


class ModelError(SeewhyError):
    """The model cannot be loaded, called or opened up."""

    exit_code = 5


class WeightsError(ModelError):
    """The weights do not fit the architecture, or cannot be read safely."""


class LayoutError(ModelError):
    """Where the model keeps its feature maps or tokens is ambiguous."""


class NonFiniteError(ModelError):
    """The model's scores, or a map, hold NaN or infinity."""


class RequirementError(SeewhyError):
    """A method needs something that the model does not offer."""

    exit_code = 6


class ConstantMapError(SeewhyError):
    """A map has one value everywhere: it says nothing about where."""

    exit_code = 8


class OptionError(SeewhyError, ValueError):
    """An option has a value that cannot work."""

    exit_code = 2


class UnknownNameError(SeewhyError, LookupError):
    """Nothing of that name; the message suggests the nearest."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = list(known)
        near = suggestion(name, known)
        super().__init__(f"unknown {kind} {name!r}{near}{(' ' if near.endswith('?') else '; ') + hint if hint else ''}")


class MissingExtraError(SeewhyError, ImportError):
    """An optional dependency is missing; the message has the pip command."""

    exit_code = 7


def suggestion(name: str, known: Iterable[str], n: int = 3) -> str:
    """`": did you mean a, b?"`, or the choices when they are few, or nothing."""
    known = list(known)
    lower = {k.lower(): k for k in known}
    near = [lower[m] for m in difflib.get_close_matches(name.lower(), lower, n=n, cutoff=0.6)]
    # a word of a long name ("tabby" in "tabby cat") is nearer than difflib's ratio tells
    near += [k for k in known if name and name.lower() in k.lower() and k not in near][: max(0, n - len(near))]
    if near:
        return f"; did you mean {', '.join(map(repr, near))}?"
    return f"; choose from {', '.join(known)}" if 0 < len(known) <= 40 else ""


def require(package: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which pip command brings it.

    Raises:
        MissingExtraError: the package is not installed, or installed but broken.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != package.split(".")[0]:
            raise MissingExtraError(
                f"{package} is installed but needs {error.name!r}; pip install 'seewhy[{extra}]'"
            ) from error
        raise MissingExtraError(f"{package} is not installed; pip install 'seewhy[{extra}]'") from None
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise MissingExtraError(
            f"{package} is installed but does not load ({reason}); "
            f"reinstall it: pip install --force-reinstall 'seewhy[{extra}]'"
        ) from error
