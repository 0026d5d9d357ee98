"""Colors of 16 bits in PNG, TIFF and PPM files, of which Pillow hands out the upper eight bits only.

Its unpackers take the byte of each number that is the upper one in the file's byte order. The same file decoded with
the other order gives the lower bytes, whatever the compression, and both together the number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

from seewhy.errors import ImageError

OTHER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""By the byte order in the name of an unpacker, the other one."""
MODES = ("RGB", "RGBA")
BITS_TAG, PLANES_TAG = 258, 284


def deep_reader(image: Any, reopen: Callable[[], Any]) -> Callable[[], ndarray] | None:
    """Return what reads all bits of a file that Pillow has opened, but not decoded; None: it has no deep colors.

    Args:
        image: The opened file.
        reopen: Opens it once more.

    Raises:
        ImageError: Pillow would misread it.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode in MODES and 16 in _tuple(tags.get(BITS_TAG)) and tags.get(PLANES_TAG) == 2:
        raise ImageError(
            f"{image.filename or 'the TIFF'} keeps its 16-bit colors in separate planes, which Pillow misreads; save "
            "them interleaved, or as .npy"
        )
    if image.mode not in MODES or "transparency" in image.info or not getattr(image, "tile", None):
        return None
    if image.format == "PPM":
        return _ppm_reader(image, reopen)
    names = {_unpacker(tile) for tile in image.tile}
    if len(names) != 1 or names.pop()[-3:] not in OTHER:
        return None
    return lambda: _both_bytes(image, reopen())


def _both_bytes(image: Any, again: Any) -> ndarray:
    """Decode an opened file, and the lower bytes from a second one."""
    with again:
        again.tile = [_with_args(tile, _swapped(tile[3])) for tile in again.tile]
        again.load()
        image.load()
        upper, lower = (np.array(part).astype(np.uint16) for part in (image, again))
    return upper * np.uint16(256) + lower


def _unpacker(tile: Any) -> str:
    args = tile[3]
    return str(args[0] if isinstance(args, tuple) and args else args)


def _with_args(tile: Any, args: Any) -> Any:
    """Return a tile with other arguments of its decoder; before Pillow 11 it is a plain tuple."""
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)


def _swapped(args: Any) -> Any:
    name = args[0] if isinstance(args, tuple) else args
    other = name[:-3] + OTHER[name[-3:]]
    return (other, *args[1:]) if isinstance(args, tuple) else other


def _ppm_reader(image: Any, reopen: Callable[[], Any]) -> Callable[[], ndarray] | None:
    codec, _, offset, args = image.tile[0]
    white = args[1] if isinstance(args, tuple) and len(args) > 1 else 255
    if codec != "ppm" or white < 256:
        return None

    def read() -> ndarray:
        with reopen() as again:
            again.fp.seek(offset)
            content = again.fp.read(image.width * image.height * 6)
        values = np.frombuffer(content, ">u2").reshape(image.height, image.width, 3).astype(np.float64)
        return np.rint(values * (65535 / white)).astype(np.uint16)

    return read


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
