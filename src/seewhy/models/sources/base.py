"""Protocol of model sources, and their registry: our own files and those of other packages.

A source is a module (or any object) with the parts of `ModelSource`. Ours lie beside this file; another package
declares its own as an entry point:

    [project.entry-points."seewhy.models"]
    mylib = "mylib.seewhy_source"

`seewhy.checks.check_source` tells what is missing in one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from seewhy.core.registry import Registry
from seewhy.models.adapter import PreprocessFunction, VisionModel
from seewhy.models.structure import Structure
from seewhy.models.text import TextEncoder

__all__ = [
    "SOURCES",
    "FollowsCheckpoints",
    "HasPreprocess",
    "HasText",
    "HasTower",
    "ModelSource",
    "SourceRegistry",
    "missing_parts",
]


class ModelSource(Protocol):
    """A library of models: how to load them, and where its modules keep what.

    The library itself is imported when one of the functions needs it, never when the source is. A source may also have
    `preprocess` (`HasPreprocess`), `tower` (`HasTower`), `text` (`HasText`), and the parts of `FollowsCheckpoints`.
    """

    @property
    def PREFIX(self) -> str:  # noqa: N802 (a constant where the source is a module)
        """How the names of its models start (`timm/`); empty: it brings a few names of its own."""
        ...

    @property
    def PACKAGE(self) -> str:  # noqa: N802
        """The package whose modules it recognizes, as it is imported; it is asked only if that is in use."""
        ...

    @property
    def DISTRIBUTIONS(self) -> tuple[str, ...]:  # noqa: N802
        """What pip installs for it, so that manifests hold the versions."""
        ...

    @property
    def EXTRA(self) -> str:  # noqa: N802
        """The extra of seewhy that installs it; empty: it is part of seewhy, or of another package."""
        ...

    def names(self, pattern: str = "*") -> list[str]:
        """Return the names (without the prefix) that match a shell pattern.

        Raises:
            MissingExtraError: The library is not installed.
        """
        ...

    @property
    def load(self) -> Callable[..., VisionModel]:
        """`load(name, *, pretrained=True, **options)`: open a model by its name without the prefix, in eval mode.

        It raises `UnknownNameError` (or another `SeewhyError`) for names that it does not know, `OptionError` for
        options, `WeightsError` for weights that cannot be read or fetched, `MissingExtraError` without the library.
        """
        ...

    def recognizes(self, module: nn.Module) -> bool:
        """Tell whether a module is of this library."""
        ...

    def structure(self, module: nn.Module) -> Structure:
        """Tell where a module of this library keeps what.

        Raises:
            LayoutError: A variant that nothing is known of; `wrap` then looks for itself.
        """
        ...


@runtime_checkable
class HasPreprocess(Protocol):
    """A source that knows the preprocessing of its modules."""

    def preprocess(self, module: nn.Module) -> PreprocessFunction:
        """Return what makes the module's input of an image."""
        ...


@runtime_checkable
class HasTower(Protocol):
    """A source with models of images and texts."""

    def tower(self, module: nn.Module) -> nn.Module:
        """Return the image side of a model of images and texts; any other module as it is."""
        ...


@runtime_checkable
class HasText(Protocol):
    """A source whose models of images and texts can read prompts."""

    def text(self, module: nn.Module, tokenizer: Any) -> TextEncoder | None:
        """Return the text side of a model of images and texts; None for any other module."""
        ...


@runtime_checkable
class FollowsCheckpoints(Protocol):
    """A source whose architectures can follow a file of weights: its size, channels and classes, its names."""

    def options_for(self, module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the options of `load` with which the architecture of `module` takes these weights; none: as it is."""
        ...

    def options_for_size(self, module: nn.Module, rows: int, cols: int) -> dict[str, Any]:
        """Return the options of `load` with which the architecture takes inputs of that size; none: it takes any."""
        ...

    def converted(self, module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the weights under the names of `module`, where they came under those of their authors."""
        ...


_CONSTANTS = {"PREFIX": str, "PACKAGE": str, "DISTRIBUTIONS": tuple, "EXTRA": str}
_SIGNATURES = {
    "names": "(pattern)",
    "load": "(name, *, pretrained, **options)",
    "recognizes": "(module)",
    "structure": "(module)",
    "preprocess": "(module)",
    "tower": "(module)",
    "text": "(module, tokenizer)",
    "options_for": "(module, state)",
    "options_for_size": "(module, rows, cols)",
    "converted": "(module, state)",
}
_OPTIONAL = ("preprocess", "tower", "text", "options_for", "options_for_size", "converted")


def missing_parts(source: Any) -> list[str]:
    """Say which parts of `ModelSource` an object lacks, or has in another form; empty if it is whole."""
    problems = []
    for name, kind in _CONSTANTS.items():
        if not isinstance(getattr(source, name, None), kind):
            problems.append(f"{name} must be a {kind.__name__}")
    for name, signature in _SIGNATURES.items():
        function = getattr(source, name, None)
        if function is None and name in _OPTIONAL:
            continue
        if not callable(function):
            problems.append(f"{name} must be a function {signature}")
        elif not _can_be_called(function, 1 if name == "load" else 1 + signature.count(","), pretrained=name == "load"):
            problems.append(f"{name} must take {signature}")
    return problems


def _can_be_called(function: Callable[..., Any], arguments: int, pretrained: bool) -> bool:
    """Tell whether a function can be called with so many arguments, and with `pretrained=` if asked."""
    try:
        inspect.signature(function).bind(*[None] * arguments, **({"pretrained": False} if pretrained else {}))
    except TypeError:
        return False
    except ValueError:  # it has no signature that Python knows of
        return True
    return True


class SourceRegistry(Registry[ModelSource]):
    """Sources by name: the modules of `seewhy.models.sources`, and the entry points of the group `seewhy.models`."""

    def __init__(self) -> None:
        super().__init__("model source", "seewhy.models.sources", "seewhy.models")

    def _take_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix("seewhy.models.sources.")
        if name != "base" and "." not in name:  # what lies deeper are parts of a source
            self._take_entry(name, module)

    def _take_entry(self, name: str, entry: Any) -> None:
        problems = missing_parts(entry)
        if problems:
            raise TypeError(f"{'; '.join(problems)}: see seewhy.models.sources.base.ModelSource")
        taken = {source.PREFIX for source in self._entries.values() if source.PREFIX}
        if entry.PREFIX in taken:
            raise ValueError(f"another source has the prefix {entry.PREFIX!r}")
        self.add(name, entry)


SOURCES = SourceRegistry()
"""All sources by name."""
