"""Locks on units of work: several processes, also on several machines, share one run's folder.

Claims only save work that would be done twice. Parts are written atomically and follow from the plan alone, so two
processes that work on the same unit write the same file.

A claim is a lock of the operating system (`filelock.FileLock`), not a file whose presence means "taken"
(`SoftFileLock`): the system frees it when its owner dies, at once on this machine and with the lease of the file server
on a network disk, while the soft file of a machine that died stays for ever. Where a disk has no such locks, work goes
on without claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Claim a unit of work for the time of the block.

    Args:
        folder: Folder of the claims, shared by all processes.
        name: Name of the unit.

    Yields:
        Whether this process may work on it.
    """
    lock = FileLock(folder / f"{name}.lock", timeout=0, fallback_to_soft=False)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):  # no locks on this disk, or no space for one
        yield True
        return
    try:
        yield True
    finally:
        lock.release()
