"""One thread at a time in a module: hooks, modes and buffers are the module's, so threads would mix theirs up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_TABLE = threading.Lock()


@contextmanager
def exclusive(module: nn.Module) -> Iterator[None]:
    """In the block, no other thread opens up this module, or another that shares a part with it.

    A thread may enter again. The locks are kept beside the modules, so copies and pickles of a module have none. Only
    seewhy asks for them: a forward that the user's own code runs meanwhile in another thread sees the hooks.

    Args:
        module: The module; all of its parts are locked, always in the same order.
    """
    with _TABLE:
        locks = {id(part): _LOCKS.setdefault(part, threading.RLock()) for part in module.modules()}
    with ExitStack() as stack:
        for key in sorted(locks):
            stack.enter_context(locks[key])
        yield
