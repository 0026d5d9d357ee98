"""Registries: from a name to a class, filled when they are looked at.

A registry finds its entries in two places: every module of one package of ours (adding a method is adding one file),
and the entry points that other installed packages declare for its group.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.metadata
import pkgutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar, overload

from seewhy.core.io import first_line
from seewhy.errors import MissingExtraError, UnknownNameError

T = TypeVar("T")
D = TypeVar("D")


class Registry(Mapping[str, T]):
    """Names to entries, in alphabetical order of the modules that register them.

    Args:
        kind: What the entries are, for messages (`"method"`).
        package: The package of ours whose modules register the entries.
        group: The entry-point group under which other packages declare theirs.
        hint: What to do about an unknown name.
    """

    def __init__(self, kind: str, package: str = "", group: str = "", hint: str = "") -> None:
        self.kind = kind
        self.hint = hint
        self._package = package
        self._group = group
        self._entries: dict[str, T] = {}
        self._broken: dict[str, Exception] = {}
        self._filled = not package
        self._filling = False
        self._lock = threading.RLock()

    def add(self, name: str, entry: T) -> None:
        """Register an entry.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    def names(self, pattern: str = "*") -> list[str]:
        """Return all names that match a shell pattern, sorted."""
        return sorted(fnmatch.filter(self._all(), pattern))

    def __getitem__(self, name: str) -> T:
        """Return the entry of that name; dashes, spaces and case do not matter.

        Raises:
            UnknownNameError: There is none; the message suggests the nearest names.
            MissingExtraError: Its module does not load.
        """
        entries = self._all()
        key = self._key(name)
        if key in entries:
            return entries[key]
        if key in self._broken:
            error = self._broken[key]
            raise MissingExtraError(
                f"the {self.kind} {name!r} does not load ({type(error).__name__}: {first_line(error)}); "
                "reinstall the library that the error names"
            ) from error
        raise UnknownNameError(self.kind, name, entries, self.hint)

    @overload
    def get(self, name: str, default: None = None) -> T | None: ...
    @overload
    def get(self, name: str, default: T | D) -> T | D: ...
    def get(self, name: str, default: Any = None) -> Any:
        """Return the entry of that name, or the default."""
        return self._all().get(self._key(name), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"<{len(self)} {self.kind}s: {', '.join(self.names())}>"

    @staticmethod
    def _key(name: str) -> str:
        return name.lower().replace("-", "_").replace(" ", "_")

    def _all(self) -> dict[str, T]:
        if not self._filled:
            with self._lock:
                self._fill()
        return self._entries

    def _fill(self) -> None:
        """Import the package's modules, then what other packages declare; an import that looks here sees a part."""
        if self._filled or self._filling:
            return
        self._filling = True
        try:
            package = importlib.import_module(self._package)
            for module in pkgutil.walk_packages(package.__path__, prefix=f"{self._package}."):
                self._import(module.name)
            for entry_point in importlib.metadata.entry_points(group=self._group):
                self._load(entry_point)
            self._filled = True
        finally:
            self._filling = False

    def _import(self, module: str) -> None:
        """Import a module of our package; one that a broken library stops costs its own entries only."""
        try:
            self._take_module(importlib.import_module(module))
        except Exception as error:
            self._broken[module.rpartition(".")[2]] = error
            warnings.warn(
                f"{module} does not load, so its {self.kind} is missing ({type(error).__name__}: {error}); "
                "reinstall the library that the error names",
                stacklevel=5,
            )

    def _load(self, entry_point: importlib.metadata.EntryPoint) -> None:
        """Import what another package declares; a broken package costs its own entries only."""
        try:
            self._take_entry(entry_point.name, entry_point.load())
        except Exception as error:
            owner = entry_point.dist.name if entry_point.dist else entry_point.value
            warnings.warn(
                f"{owner} declares the {self.kind} {entry_point.name!r}, which does not load "
                f"({type(error).__name__}: {error}); update or uninstall {owner}",
                stacklevel=4,
            )

    def _take_module(self, module: ModuleType) -> None:
        """Take in a module of our package; by default its decorators have registered its entries already."""

    def _take_entry(self, name: str, entry: Any) -> None:
        """Take in what an entry point gives; by default its decorators have registered it already."""
