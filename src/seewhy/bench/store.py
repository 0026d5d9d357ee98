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

from seewhy.bench.parts import (
    IMAGES,
    MAPS,
    ROWS,
    duckdb_files,
    duckdb_path,
    is_whole,
    read_about,
    scan_sql,
    schemas,
    write_part,
)
from seewhy.bench.toml import plan_digest
from seewhy.core.io import atomic_file, first_line, json_default, machine
from seewhy.errors import DataError, SeewhyError, install_hint, require

SCHEMA = 1
PLAN, MANIFEST, CLAIMS = "plan.toml", "manifest.json", "claims"
PLAN_NOTE = "seewhy.plan"
"""Under which key each part notes the digest of its plan."""

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

    def write(
        self, kind: str, name: str, rows: Iterable[Mapping[str, Any]], about: Mapping[str, str] | None = None
    ) -> None:
        """Write a part, atomically. Rows come last of all kinds of one name: they say that it is done.

        Args:
            kind: `rows`, `maps` or `images`.
            name: Name of the part.
            rows: Values by column.
            about: What is noted of the part, beside the digest of the plan.
        """
        with self._draft(self.folder / kind / name) as draft:
            write_part(draft, kind, rows, {PLAN_NOTE: self.plan_digest, **(about or {})})

    def about(self, name: str) -> dict[str, str]:
        """Return what was noted of a part's rows; nothing where they are not there.

        Raises:
            DataError: When the part cannot be read.
        """
        path = self.folder / ROWS / name
        if not path.is_file():
            return {}
        try:
            return read_about(path)
        except Exception as error:  # a broken file raises whatever its bytes lead to
            raise DataError(
                f"cannot read {path} ({first_line(error)}); run `seewhy bench resume {self.folder}`"
            ) from error

    @cached_property
    def plan_digest(self) -> str:
        """The digest of the plan that the run was started with."""
        return plan_digest(self.plan_text)

    def check_parts_of_this_plan(self) -> None:
        """Check that no part was made with another plan, whatever the manifest says.

        Raises:
            DataError: When one was; parts of earlier versions do not tell.
        """
        for name in sorted(self.done()):
            noted = self.about(name).get(PLAN_NOTE, self.plan_digest)
            if noted != self.plan_digest:
                raise DataError(
                    f"{self.folder} holds parts of another plan ({name}); put that plan back into {PLAN}, or start "
                    "another run with this one"
                )

    def write_text(self, name: str, text: str) -> None:
        """Write a small file, atomically."""
        with self._draft(self.folder / name) as draft:
            draft.write_text(text, "utf-8")

    def tidy(self) -> None:
        """Remove what killed processes left half-written: those of this machine at once, of others after an hour."""
        for path in self.folder.rglob("*.tmp"):
            writer = re.search(r"\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]+\.tmp$", path.name)
            killed = writer is not None and writer[1] == machine() and not alive(int(writer[2]))
            try:
                if killed or time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink(missing_ok=True)
            except OSError:  # another process was quicker
                continue

    def clear_claims(self) -> None:
        """Remove the lock files of a finished run."""
        shutil.rmtree(self.folder / CLAIMS, ignore_errors=True)

    def drop_broken(self) -> list[str]:
        """Remove parts that a failing disk cut off or changed, so that they are computed again; return their names."""
        duckdb: Any = require("duckdb", "bench")
        with duckdb.connect() as database:

            def is_readable(path: Path) -> bool:
                """Tell whether the reader of reports can read it too: the two do not stumble over the same bytes."""
                try:
                    database.sql(f"SELECT * FROM {scan_sql([duckdb_path(path)])}").to_arrow_table()
                except duckdb.Error:
                    return not path.exists()  # else another process was quicker
                return True

            broken = [
                path
                for kind in (ROWS, MAPS, IMAGES)
                for path in (self.folder / kind).glob("*.parquet")
                if not (is_whole(path) and is_readable(path))
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
