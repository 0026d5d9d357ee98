"""One thread at a time in a module: hooks, modes and buffers are the module's, so threads would mix theirs up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_TABLE = threading.Lock()


class _Held(threading.local):
    """The modules that this thread has to itself, by id, with all of their parts."""

    def __init__(self) -> None:
        self.modules: set[int] = set()


_HELD = _Held()


@contextmanager
def exclusive(module: nn.Module) -> Iterator[None]:
    """In the block, no other thread opens up this module, or another that shares a part with it.

    A thread may enter again, and then nothing is locked anew. The locks are kept beside the modules, so copies and
    pickles of a module have none. Only seewhy asks for them: a forward that the user's own code runs meanwhile in
    another thread sees the hooks.

    Args:
        module: The module; all of its parts are locked, always in the same order.
    """
    held, key = _HELD.modules, id(module)
    if key in held:
        yield
        return
    with _TABLE:
        locks = {id(part): _LOCKS.setdefault(part, threading.RLock()) for part in module.modules()}
    taken: list[threading.RLock] = []
    try:
        for part in sorted(locks):
            locks[part].acquire()
            taken.append(locks[part])
        held.add(key)
        yield
    finally:
        held.discard(key)
        for lock in reversed(taken):
            lock.release()
