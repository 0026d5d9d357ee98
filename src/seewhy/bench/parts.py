"""Parquet parts of a run: their columns, their names, and how DuckDB is told to read exactly these files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
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
    return [duckdb_path(path) for path in sorted(folder.glob("*.parquet"))]


def duckdb_path(path: Path) -> str:
    """Return a path as DuckDB takes it for the one file that it is."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def scan_sql(files: Sequence[str]) -> str:
    """Return SQL that reads files of `duckdb_files`, for views, which take no parameters."""
    quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return READ.replace("?", f"[{quoted}]")


def write_part(path: Path, kind: str, rows: Iterable[Mapping[str, Any]], about: Mapping[str, str]) -> None:
    """Write a part, each page with a checksum.

    Args:
        path: The file.
        kind: `rows`, `maps` or `images`.
        rows: Values by column.
        about: What is noted of the part; `read_about` gives it back.
    """
    pa: Any = require("pyarrow", "bench")
    pq: Any = require("pyarrow.parquet", "bench")
    schema = schemas()[kind].with_metadata(dict(about))
    table = pa.Table.from_pylist(list(rows), schema=schema)
    # no statistics: a flipped bit in them would hide rows from a query, and no checksum covers them
    pq.write_table(table, path, compression="zstd", write_page_checksum=True, write_statistics=False)


def read_about(path: Path) -> dict[str, str]:
    """Return what was noted of a part when it was written."""
    pq: Any = require("pyarrow.parquet", "bench")
    noted = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in noted.items() if not key.startswith(b"ARROW")}


def is_whole(path: Path) -> bool:
    """Tell whether a part can be read to its end, its checksums agree, and it has the columns of its kind.

    Parts of earlier versions may lack columns that came later.
    """
    pq: Any = require("pyarrow.parquet", "bench")
    known = _columns(schemas()[path.parent.name])
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not known >= _columns(file.schema_arrow):
                return False
            file.read(use_threads=False)
    except FileNotFoundError:  # another process was quicker
        return True
    except Exception:  # a broken file raises whatever its bytes lead to
        return False
    return True


def _columns(schema: Any) -> set[tuple[str, str]]:
    """Return names and types, as far as readers must agree: not how precise a number is, nor of an empty column."""
    types = {field.name: str(field.type).replace("element", "item").replace("float", "double") for field in schema}
    return {(name, kind) for name, kind in types.items() if kind != "null"}
