"""A run on disk: a folder of Parquet parts that appear whole or not at all.

A part's name follows from what it holds, so a part that is there is work that is done, whoever did it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from seewhy.errors import DataError, SeewhyError, install_hint, require

SCHEMA = 1
ROWS, MAPS, IMAGES = "rows", "maps", "images"
PLAN, MANIFEST = "plan.toml", "manifest.json"
LEFTOVER = 3600.0  # seconds after which a half-written file cannot be anybody's any more


def schemas() -> dict[str, Any]:
    """The columns of each kind of part."""
    pa = require("pyarrow", "bench")
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
    """The file of a model's batch with a method; readable, and different for different labels."""
    digest = hashlib.sha256(json.dumps([model, method]).encode()).hexdigest()[:8]
    words = [re.sub(r"[^A-Za-z0-9]+", "_", word).strip("_")[:40] or "model" for word in (model, method)]
    return f"{words[0]}--{words[1]}--{digest}--{batch:06d}.parquet"


class Store:
    """The folder of a run.

    Raises:
        SeewhyError: whatever cannot be written, with how to go on; nothing half-written stays.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: str | Path, plan: str) -> Store:
        """A new run.

        Raises:
            SeewhyError: the folder holds something already, or cannot be made.
        """
        store = cls(folder)
        if store.folder.exists() and not _is_fresh(store.folder):
            raise SeewhyError(
                f"{store.folder} exists; go on with `seewhy bench resume {store.folder}`, or choose another folder"
            )
        try:
            for kind in (ROWS, MAPS, IMAGES, "claims"):
                (store.folder / kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise store._failed(error) from error
        store.write_text(PLAN, plan)
        return store

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """An existing run.

        Raises:
            DataError: the folder holds none.
        """
        store = cls(folder)
        if not (store.folder / PLAN).is_file():
            raise DataError(
                f"{store.folder} holds no benchmark run (no {PLAN}); start one: "
                f"seewhy bench run plan.toml -o {store.folder}"
            )
        return store

    @property
    def plan_text(self) -> str:
        return (self.folder / PLAN).read_text("utf-8")

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of the run; empty before its first moment is over."""
        path = self.folder / MANIFEST
        try:
            found = json.loads(path.read_text("utf-8")) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is broken ({error}); remove it and resume the run") from error
        if found.get("schema", SCHEMA) > SCHEMA:
            raise DataError(
                f"{path} has schema {found['schema']}, this seewhy reads up to {SCHEMA}; "
                f"{install_hint('', '--upgrade')}"
            )
        return found

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self.write_text(MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False, default=_plain))

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def done(self) -> set[str]:
        """Names of the parts whose rows are there."""
        return {path.name for path in (self.folder / ROWS).glob("*.parquet")}

    def has(self, name: str) -> bool:
        return (self.folder / ROWS / name).exists()

    def write(self, kind: str, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A part, atomically. Rows come last of all kinds of one name: they say that it is done."""
        pa, pq = require("pyarrow", "bench"), require("pyarrow.parquet", "bench")
        table = pa.Table.from_pylist(list(rows), schema=self._schemas[kind])
        self._atomic(self.folder / kind / name, lambda path: pq.write_table(table, path, compression="zstd"))

    def write_text(self, name: str, text: str) -> None:
        """A small file, atomically."""
        self._atomic(self.folder / name, lambda path: path.write_text(text, "utf-8"))

    def tidy(self) -> None:
        """Remove what killed processes left half-written."""
        for path in self.folder.rglob("*.tmp"):
            pid = re.search(r"\.([0-9]+)-[0-9a-f]+\.tmp$", path.name)
            try:
                if not (pid and alive(int(pid[1]))) or time.time() - path.stat().st_mtime > LEFTOVER:
                    path.unlink(missing_ok=True)
            except OSError:  # somebody else was quicker
                continue

    def drop_broken(self) -> list[str]:
        """Remove parts that a failing disk cut off, so that they are made again; returns their names."""
        broken = [
            path
            for kind in (ROWS, MAPS, IMAGES)
            for path in (self.folder / kind).glob("*.parquet")
            if not _is_whole(path)
        ]
        for path in broken:
            for file in (self.folder / ROWS / path.name, path):  # rows say that a part is done
                file.unlink(missing_ok=True)
        return sorted({path.name for path in broken})

    @cached_property
    def _schemas(self) -> dict[str, Any]:
        return schemas()

    def _atomic(self, path: Path, write: Callable[[Path], Any]) -> None:
        draft = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
        try:
            write(draft)
            with open(draft, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
            _sync_folder(path.parent)
        except BaseException as error:
            with suppress(OSError):  # a folder that is read-only has no draft and refuses to remove it
                draft.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise self._failed(error) from error
            raise

    def _failed(self, error: OSError) -> SeewhyError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return SeewhyError(
                f"the disk of {self.folder} is full, nothing finished is lost; free some space, then "
                f"`seewhy bench resume {self.folder}`"
            )
        return SeewhyError(
            f"{self.folder} cannot be written ({error.strerror or error}); mend that, then "
            f"`seewhy bench resume {self.folder}`"
        )

    # ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────
    def table(self, sql: str, parameters: Iterable[Any] = ()) -> Any:
        """The answer to a question in SQL, a `pyarrow.Table`; `rows`, `maps` and `images` are its tables.

        Raises:
            MissingExtraError: duckdb or pyarrow is not installed. DataError: the question cannot be answered.
        """
        duckdb = require("duckdb", "bench")
        with duckdb.connect() as base:
            for kind, schema in self._schemas.items():
                parts = str(self.folder / kind / "*.parquet")
                if any((self.folder / kind).glob("*.parquet")):
                    base.execute(f"CREATE VIEW {kind} AS SELECT * FROM read_parquet({_quoted(parts)})")
                else:
                    base.register(kind, schema.empty_table())
            try:
                return base.sql(sql, params=list(parameters)).to_arrow_table()
            except duckdb.Error as error:
                raise DataError(
                    f"{self.folder}: {str(error).splitlines()[0]}; check the query, or resume the run "
                    "if a part is broken"
                ) from error


def open_run(path: str | Path) -> Store:
    """The store of a run's folder, to ask questions of.

    Raises:
        DataError: there is no run.
    """
    return Store.open(path)


def _is_fresh(folder: Path) -> bool:
    """Whether it is an empty folder, or one whose run was killed before it began."""
    return folder.is_dir() and all(
        path.name.endswith(".tmp") or (path.is_dir() and not any(path.iterdir())) for path in folder.iterdir()
    )


def _is_whole(path: Path) -> bool:
    """Whether a Parquet file has its end: all else is checked when it is read."""
    try:
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            return file.read() == b"PAR1"
    except FileNotFoundError:  # somebody else was quicker
        return True
    except OSError:  # shorter than that
        return False


def alive(pid: int) -> bool:
    """Whether a process of this machine still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _sync_folder(folder: Path) -> None:
    """The new name itself survives a power cut; not every system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
    finally:
        os.close(handle)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)
