"""Whether a PNG holds all its rows: Pillow leaves those that are missing black, and says nothing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from seewhy.errors import ImageError

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Numbers for each pixel by the color type in the file's header."""
PIECE = 1 << 20


def check_rows(image: Image.Image, name: str) -> None:
    """Check a decoded PNG whose last row is black: does the file hold it, or did its data end before?

    Other images, and those that are no file, are not looked at.

    Args:
        image: The decoded image.
        name: Its file.

    Raises:
        ImageError: Rows are missing.
    """
    path = Path(name)
    if image.format != "PNG" or not path.is_file():
        return
    if np.asarray(image.crop((0, image.height - 1, image.width, image.height))).any():
        return
    chunks = _chunks(path)
    header = next((content for kind, content in chunks if kind == b"IHDR"), b"")
    if len(header) < 13:
        return
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    if interlaced or color not in CHANNELS:
        return
    row = 1 + (width * depth * CHANNELS[color] + 7) // 8
    held = _inflated(content for kind, content in chunks if kind == b"IDAT")
    if held < height * row:
        raise ImageError(f"{name} is truncated: it holds {held // row} of {height} rows; get the file again")


def _chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            yield kind, file.read(length)
            file.seek(4, 1)


def _inflated(parts: Iterable[bytes]) -> int:
    """Return how many bytes the compressed parts hold, without keeping them."""
    stream, total = zlib.decompressobj(), 0
    for part in parts:
        while part:
            total += len(stream.decompress(part, PIECE))
            part = stream.unconsumed_tail
    return total + len(stream.flush())
