"""Parquet parts of a run: their columns, their names, and how DuckDB is told to read exactly these files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seewhy.errors import require

ROWS, MAPS, IMAGES = "rows", "maps", "images"
READ = "read_parquet(?, union_by_name=true, hive_partitioning=false)"
"""Reads a list of files; whatever the folders are called (`value=99`), columns come from the files alone."""


def schemas() -> dict[str, Any]:
    """Return the columns of each kind of part, as `pyarrow.Schema`."""
    pa: Any = require("pyarrow", "bench")
    text, number = pa.string(), pa.float64()
    return {
        ROWS: pa.schema(
            [
                ("model", text),
                ("data", text),
                ("split", text),
                ("sample", text),
                ("index", pa.int64()),
                ("target", text),
                ("entry", text),
                ("method", text),
                ("metric", text),
                ("value", number),
                ("seconds", number),
                ("error", text),
                ("curve", pa.list_(pa.float32())),
                ("passes", number),
            ]
        ),
        MAPS: pa.schema(
            [
                ("model", text),
                ("sample", text),
                ("entry", text),
                ("method", text),
                ("rows", pa.int64()),
                ("cols", pa.int64()),
                ("map", pa.binary()),
            ]
        ),
        IMAGES: pa.schema([("model", text), ("sample", text), ("jpeg", pa.binary()), ("mask", pa.binary())]),
    }


def part_name(model: str, method: str, batch: int) -> str:
    """Return the file name of a method on a batch of a model: readable, and different for different labels."""
    digest = hashlib.sha256(json.dumps([model, method]).encode()).hexdigest()[:8]
    words = [re.sub(r"[^A-Za-z0-9]+", "_", word).strip("_")[:40] or "model" for word in (model, method)]
    return f"{words[0]}--{words[1]}--{digest}--{batch:06d}.parquet"


def duckdb_files(folder: Path) -> list[str]:
    """Return the parts in a folder, by name, as DuckDB takes each for the one file that it is (not for a pattern)."""
    return [re.sub(r"([*?\[])", r"[\1]", str(path)) for path in sorted(folder.glob("*.parquet"))]


def scan_sql(files: Sequence[str]) -> str:
    """Return SQL that reads files of `duckdb_files`, for views, which take no parameters."""
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return READ.replace("?", f"[{quoted}]")


def is_whole(path: Path) -> bool:
    """Tell whether a Parquet file has its end; all else is checked when it is read."""
    try:
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == b"PAR1"
    except FileNotFoundError:  # another process was quicker
        return True
    except OSError:  # shorter than that
        return False
