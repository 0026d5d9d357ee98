"""A run on disk: a folder of Parquet parts that appear whole or not at all.

A part's name follows from what it holds, so a part that is there is work that is done, whoever did it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from seewhy.bench.parts import IMAGES, MAPS, ROWS, duckdb_files, is_whole, scan_sql, schemas
from seewhy.core.io import atomic_file, first_line, json_default
from seewhy.errors import DataError, SeewhyError, install_hint, require

SCHEMA = 1
PLAN, MANIFEST, CLAIMS = "plan.toml", "manifest.json", "claims"
ABANDONED = 3600.0
"""Seconds after which a half-written file belongs to nobody any more."""


class Store:
    """The folder of a run.

    Whatever cannot be written raises `SeewhyError` with how to continue; nothing half-written stays.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: str | Path, plan: str) -> Store:
        """Begin a new run.

        Args:
            folder: A folder that does not exist, is empty, or holds a run that was killed before it began.
            plan: The plan's text.

        Raises:
            SeewhyError: When the folder holds something already, or cannot be created.
        """
        store = cls(folder)
        if store.folder.exists() and not _is_fresh(store.folder):
            raise SeewhyError(
                f"{store.folder} exists; continue with `seewhy bench resume {store.folder}`, or choose another folder"
            )
        try:
            for kind in (ROWS, MAPS, IMAGES, CLAIMS):
                (store.folder / kind).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise store._explain(error) from error
        store.write_text(PLAN, plan)
        return store

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Open an existing run.

        Raises:
            DataError: When the folder holds none.
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
        """The plan that the run was started with."""
        return (self.folder / PLAN).read_text("utf-8")

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of the run beside its rows; empty until all of it has been checked.

        Raises:
            DataError: When the file is broken, or of a newer version of seewhy.
        """
        path = self.folder / MANIFEST
        try:
            manifest = json.loads(path.read_text("utf-8")) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read {path} ({first_line(error)}); remove it and run `seewhy bench resume {self.folder}`"
            ) from error
        if manifest.get("schema", SCHEMA) > SCHEMA:
            raise DataError(
                f"{path} has schema {manifest['schema']}, this seewhy reads up to {SCHEMA}; "
                f"{install_hint('', '--upgrade')}"
            )
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, atomically."""
        self.write_text(MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False, default=json_default))

    # ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def done(self) -> set[str]:
        """Return the names of the parts whose rows are there."""
        return {path.name for path in (self.folder / ROWS).glob("*.parquet")}

    def has(self, name: str) -> bool:
        """Tell whether a part is done."""
        return (self.folder / ROWS / name).exists()

    def write(self, kind: str, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a part, atomically. Rows come last of all kinds of one name: they say that it is done."""
        pa: Any = require("pyarrow", "bench")
        pq: Any = require("pyarrow.parquet", "bench")
        table = pa.Table.from_pylist(list(rows), schema=self._schemas[kind])
        with self._draft(self.folder / kind / name) as draft:
            pq.write_table(table, draft, compression="zstd")

    def write_text(self, name: str, text: str) -> None:
        """Write a small file, atomically."""
        with self._draft(self.folder / name) as draft:
            draft.write_text(text, "utf-8")

    def tidy(self) -> None:
        """Remove what killed processes left half-written."""
        for path in self.folder.rglob("*.tmp"):
            pid = re.search(r"\.([0-9]+)-[0-9a-f]+\.tmp$", path.name)
            try:
                if not (pid and alive(int(pid[1]))) or time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink(missing_ok=True)
            except OSError:  # another process was quicker
                continue

    def clear_claims(self) -> None:
        """Remove the lock files of a finished run."""
        shutil.rmtree(self.folder / CLAIMS, ignore_errors=True)

    def drop_broken(self) -> list[str]:
        """Remove parts that a failing disk cut off, so that they are computed again; return their names."""
        broken = [
            path
            for kind in (ROWS, MAPS, IMAGES)
            for path in (self.folder / kind).glob("*.parquet")
            if not is_whole(path)
        ]
        for path in broken:
            for file in (self.folder / ROWS / path.name, path):  # rows say that a part is done
                file.unlink(missing_ok=True)
        return sorted({path.name for path in broken})

    @cached_property
    def _schemas(self) -> dict[str, Any]:
        return schemas()

    @contextmanager
    def _draft(self, path: Path) -> Iterator[Path]:
        """Write a file whole or not at all; a draft has another suffix, so that nobody takes it for a part."""
        try:
            with atomic_file(path, keep_suffix=False) as draft:
                yield draft
        except OSError as error:
            raise self._explain(error) from error

    def _explain(self, error: OSError) -> SeewhyError:
        """Return an error that says why the folder cannot be written, and what to do."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return SeewhyError(
                f"no space left on the disk of {self.folder}; finished parts are safe: free some space and run "
                f"`seewhy bench resume {self.folder}`"
            )
        return SeewhyError(
            f"cannot write to {self.folder} ({error.strerror or error}); fix it and run "
            f"`seewhy bench resume {self.folder}`"
        )

    # ── queries ───────────────────────────────────────────────────────────────────────────────────────────────────
    def table(self, sql: str, parameters: Iterable[Any] = ()) -> Any:
        """Query the run in SQL; its tables are `rows`, `maps` and `images`.

        Args:
            sql: A query of DuckDB.
            parameters: Values for the query's question marks.

        Returns:
            A `pyarrow.Table`.

        Raises:
            MissingExtraError: When duckdb or pyarrow is not installed.
            DataError: When the query cannot be answered.
        """
        duckdb: Any = require("duckdb", "bench")
        with duckdb.connect() as database:
            try:
                for kind, schema in self._schemas.items():
                    if files := duckdb_files(self.folder / kind):
                        database.execute(f"CREATE VIEW {kind} AS SELECT * FROM {scan_sql(files)}")
                    else:
                        database.register(kind, schema.empty_table())
                return database.sql(sql, params=list(parameters)).to_arrow_table()
            except duckdb.Error as error:
                raise DataError(
                    f"{self.folder}: {first_line(error)}; check the query, or run `seewhy bench resume {self.folder}` "
                    "if a part is broken"
                ) from error


def open_run(path: str | Path) -> Store:
    """Open the folder of a run, to query it.

    Raises:
        DataError: When it holds no run.
    """
    return Store.open(path)


def _is_fresh(folder: Path) -> bool:
    """Tell whether a folder is empty, or holds a run that was killed before it began."""
    return folder.is_dir() and all(
        path.name.endswith(".tmp") or (path.is_dir() and not any(path.iterdir())) for path in folder.iterdir()
    )


def alive(pid: int) -> bool:
    """Tell whether a process of this machine still runs."""
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
