"""Files and messages: atomic writes, JSON of odd values, one-line reasons."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from seewhy.errors import SeewhyError


def first_line(error: BaseException, limit: int | None = None) -> str:
    """Return the first line of an exception's message, or the name of its class if it has none."""
    line = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
    return line if limit is None else line[:limit]


def json_default(value: Any) -> Any:
    """Turn what `json` does not know (numbers of other libraries, sets, paths) into what it does."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):  # numpy and torch
        return value.tolist()
    return str(value)


@contextmanager
def atomic_file(path: Path, keep_suffix: bool = True) -> Iterator[Path]:
    """Write a file whole or not at all, and make it last through a power cut.

    Args:
        path: The file; what was there is replaced if the block succeeds, and stays if it fails.
        keep_suffix: Whether the draft has the suffix of `path`, for writers that go by it; without, its name ends in
            `.tmp`, so that a reader of all files with that suffix does not take a draft for a file.

    Yields:
        A draft beside `path`, to be written in the block.
    """
    tag = f"{machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    draft = path.with_name(f".{path.stem}.{tag}{path.suffix}" if keep_suffix else f".{path.name}.{tag}")
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # a read-only folder has no draft and refuses to remove it
            draft.unlink(missing_ok=True)


@cache
def machine() -> str:
    """Return a short name of this machine, or container: where process numbers mean the same processes."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux: no containers
        numbers = ""
    return hashlib.sha256(f"{platform.node()} {numbers}".encode()).hexdigest()[:8]


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Write a folder whole or not at all.

    Args:
        folder: The folder; what was there is replaced if the block succeeds, and stays if it fails.

    Yields:
        An empty draft folder beside `folder`, to be filled in the block.

    Raises:
        SeewhyError: The folder cannot be written.
    """
    tag = uuid.uuid4().hex[:8]
    draft, old = (folder.absolute().with_name(f".{folder.absolute().name}.{tag}.{kind}") for kind in ("new", "old"))
    try:
        draft.mkdir(parents=True)
        yield draft
        _swap(draft, folder, old)
    except OSError as error:
        raise SeewhyError(f"cannot write to {folder} ({error.strerror or error}); choose another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last; not every file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(draft: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
