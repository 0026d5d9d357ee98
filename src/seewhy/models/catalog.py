"""The names of all models, and those near one that there is not."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator

from seewhy.core.io import first_line
from seewhy.errors import MissingExtraError
from seewhy.models.sources.base import SOURCES, ModelSource


def source_named(name: str) -> ModelSource | None:
    """Return the source of a model's name, by its prefix or by a name of its own."""
    for source in SOURCES.values():
        if name.startswith(source.PREFIX) if source.PREFIX else name in names_of(source):
            return source
    return None


def all_names() -> Iterator[str]:
    """Yield the names of all models, with their prefixes."""
    for source in SOURCES.values():
        yield from (source.PREFIX + name for name in names_of(source))


def names_of(source: ModelSource) -> list[str]:
    """Return a source's names; none if its library is missing, or (with a warning) if another package is broken."""
    try:
        return source.names()
    except MissingExtraError:
        return []
    except Exception as error:
        warn_of(source, "cannot list its models", error)
        return []


def warn_of(source: ModelSource, problem: str, error: Exception) -> None:
    """Warn that a source of another package does not work."""
    warnings.warn(
        f"the model source {getattr(source, '__name__', source)!r} {problem} "
        f"({type(error).__name__}: {first_line(error)}); update or uninstall its package",
        stacklevel=4,
    )


def nearest(name: str, n: int = 4) -> list[str]:
    """Return names like this one, in any source: `resnet50` is near `torchvision/resnet50` and `timm/resnet50`."""
    by_architecture: dict[str, list[str]] = {}
    for known in all_names():
        by_architecture.setdefault(_architecture_of(known), []).append(known)
    wanted = _architecture_of(name)
    near = [wanted] if wanted in by_architecture else []
    near = near or difflib.get_close_matches(wanted, by_architecture, n=n, cutoff=0.7)
    firsts: list[str] = []
    for architecture in near:
        # the first of each source: a name like resnet50 has a dozen sets of weights in timm
        of_source: dict[str, str] = {}
        for known in by_architecture[architecture]:
            of_source.setdefault(known.split("/")[0], known)
        firsts += of_source.values()
    if firsts:
        return firsts[:n]
    last_part = name.split("/")[-1].lower()
    return [known for known in all_names() if last_part in known.lower()][:n]


def _architecture_of(name: str) -> str:
    """Return the part of a name between source and weights, in lower case."""
    return name.split("/")[-1].split(".")[0].lower()
