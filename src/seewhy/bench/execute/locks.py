"""Who works on what: several processes, also of several machines, share one run's folder.

Claims only save work that would be done twice. Parts are written atomically and follow from the plan alone, so two
processes that do hold the same claim for a moment write the same file.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seewhy.bench.store import alive

BEAT = 5.0
STALE = 60.0  # seconds without a heartbeat, after which a claim of another machine is taken over


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """In the block, whether this process has the claim; the file goes away after it."""
    path = folder / f"{name}.claim"
    mine = _take(path)
    if not mine:
        yield False
        return
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        stop.set()
        beating.join()
        with suppress(OSError):
            path.unlink()


def _take(path: Path) -> bool:
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if not _stale(path):
                return False
            with suppress(OSError):
                path.unlink()
            continue
        except OSError:
            return True  # a folder that takes no claims (a full disk): the work is done without
        with os.fdopen(handle, "w") as file, suppress(OSError):
            json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        return True
    return False


def _stale(path: Path) -> bool:
    try:
        quiet = time.time() - path.stat().st_mtime
        about = json.loads(path.read_text())
        if about["host"] == socket.gethostname():
            return about["pid"] == os.getpid() or not alive(about["pid"])
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError):  # its owner was killed, or is, between making and writing it
        return quiet > BEAT
    return quiet > STALE


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with suppress(OSError):
            os.utime(path)
