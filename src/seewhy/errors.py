"""Every error that seewhy raises on purpose.

    SeewhyError
    ├── ImageError              a file is not an image, or cannot be read
    ├── DataError               a dataset does not have the expected layout
    ├── TargetError             the target does not exist for this model
    ├── ModelError              the model cannot be loaded or inspected
    │   ├── WeightsError        the weights do not fit, or cannot be read safely
    │   ├── LayoutError         the layout of feature maps or tokens is ambiguous: the user must specify it
    │   └── NonFiniteError      the model (or the map) gives NaN or infinity
    ├── ConstantMapError        a map has one value everywhere (command line; in Python it is a warning)
    ├── RequirementError        the method does not support this model
    ├── OptionError             an option has an invalid value
    ├── UnknownNameError        there is no method, model, layer, class … of that name
    └── MissingExtraError       an optional dependency is not installed

Messages are one line and end with what to do next. Command-line exit codes are `SeewhyError.exit_code`.
"""

from __future__ import annotations

import difflib
import importlib
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any


class SeewhyError(Exception):
    """Base of all errors that seewhy raises on purpose."""

    exit_code = 1


class ImageError(SeewhyError):
    """An image is missing, truncated, too large, or not an image."""

    exit_code = 3


class DataError(SeewhyError):
    """A dataset's folder or annotations do not have the expected layout."""

    exit_code = 9


class TargetError(SeewhyError):
    """The target (class, concept, output) does not exist for this model."""

    exit_code = 4


class ModelError(SeewhyError):
    """The model cannot be loaded, called or inspected."""

    exit_code = 5


class WeightsError(ModelError):
    """The weights do not fit the architecture, or cannot be read safely."""


class LayoutError(ModelError):
    """The layout of the model's feature maps or tokens is ambiguous."""


class NonFiniteError(ModelError):
    """The model's scores, or a map, hold NaN or infinity."""


class RequirementError(SeewhyError):
    """A method needs a capability that the model does not have."""

    exit_code = 6


class ConstantMapError(SeewhyError):
    """A map has one value everywhere and points nowhere."""

    exit_code = 8


class OptionError(SeewhyError, ValueError):
    """An option has an invalid value."""

    exit_code = 2


class UnknownNameError(SeewhyError, LookupError):
    """There is nothing of that name; the message suggests the nearest."""

    exit_code = 2

    def __init__(self, kind: str, name: str, available: Iterable[str], hint: str = "") -> None:
        near = suggestion(name, available)
        super().__init__(f"unknown {kind} {name!r}{near}{(' ' if near.endswith('?') else '; ') + hint if hint else ''}")


class MissingExtraError(SeewhyError, ImportError):
    """An optional dependency is missing; the message has the pip command."""

    exit_code = 7


def suggestion(name: str, available: Iterable[str], n: int = 3) -> str:
    """Return `"; did you mean a, b?"`, or the choices when they are few, or an empty string."""
    available = list(available)
    lower = {k.lower(): k for k in available}
    near = [lower[m] for m in difflib.get_close_matches(name.lower(), lower, n=n, cutoff=0.6)]
    # a word of a long name ("tabby" in "tabby cat") is nearer than difflib's ratio tells
    near += [k for k in available if name and name.lower() in k.lower() and k not in near][: max(0, n - len(near))]
    if near:
        return f"; did you mean {', '.join(map(repr, near))}?"
    return f"; choose from {', '.join(available)}" if 0 < len(available) <= 40 else ""


def require(package: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        package: The module to import.
        extra: The extra of seewhy that brings it.

    Raises:
        MissingExtraError: When the package is missing or broken; the message has the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if not error.name:  # raised by the library itself, over what it could not import
            raise MissingExtraError(broken_package(package, extra, error)) from error
        if error.name.split(".")[0] != package.split(".")[0]:
            raise MissingExtraError(
                f"{package} is installed but needs {error.name!r}; {install_hint(extra)}"
            ) from error
        raise MissingExtraError(f"{package} is not installed; {install_hint(extra)}") from None
    except (ImportError, RuntimeError, OSError) as error:
        raise MissingExtraError(broken_package(package, extra, error)) from error


def broken_package(package: str, extra: str, error: Exception) -> str:
    """Return the message for an optional dependency that is installed but fails to import."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"{package} is installed but does not load ({reason}); reinstall it: {install_hint(extra, '--force-reinstall')}"
    )


def install_hint(extra: str = "", *flags: str) -> str:
    """Return the pip command that installs seewhy again, from where it was installed, with an extra.

    Args:
        extra: The extra, such as `timm`.
        *flags: Flags of `pip install`, such as `--upgrade`.
    """
    return shlex.join(["pip", "install", *flags, *_requirement(extra)])


def _requirement(extra: str) -> list[str]:
    """Return what `pip install` needs to find this installation again, by its `direct_url.json` (PEP 610)."""
    name = "seewhy" + (f"[{extra}]" if extra else "")
    origin = _direct_url()
    url = origin.get("url", "")
    if not url:
        return [name]  # from a package index
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        revision = vcs.get("requested_revision")
        url = f"{vcs['vcs']}+{url}" + (f"@{revision}" if revision else "")
    elif url.startswith("file:"):
        from urllib.request import url2pathname  # a tenth of a second, and rarely needed

        path = url2pathname(url.removeprefix("file://")) + name.removeprefix("seewhy")
        return ["-e", path] if origin.get("dir_info", {}).get("editable") else [path]
    if "subdirectory" in origin:
        url += f"#subdirectory={origin['subdirectory']}"
    return [f"{name} @ {url}"]


def _direct_url() -> dict[str, Any]:
    """Return where seewhy was installed from; empty for a package index, or where that is not known."""
    from importlib import metadata  # slow to import, and rarely needed

    try:
        url: dict[str, Any] = json.loads(metadata.distribution("seewhy").read_text("direct_url.json") or "{}")
        return url
    except metadata.PackageNotFoundError:
        source = Path(__file__).parents[2]  # a checkout that is on the path, but not installed
        is_checkout = (source / "pyproject.toml").is_file()
        return {"url": source.as_uri(), "dir_info": {"editable": True}} if is_checkout else {}
    except (OSError, ValueError):
        return {}
