"""Parts appear whole or not at all; claims are taken over from the dead."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from plans import small

from seewhy.bench import store as stores
from seewhy.bench.execute import run as engine
from seewhy.bench.execute.locks import claimed
from seewhy.bench.parts import ROWS, part_name
from seewhy.bench.report import RunData
from seewhy.bench.store import Store, open_run
from seewhy.core.io import machine
from seewhy.errors import DataError, SeewhyError

ROW = {"model": "m", "sample": "it's", "method": "a", "metric": "b", "value": 0.5, "curve": [1.0, 2.0]}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(tmp_path / "it's a run", "seed = 0")


@pytest.fixture
def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_is_written_is_read_through_sql(store):
    assert store.table("SELECT * FROM rows").num_rows == 0
    store.write(ROWS, "x.parquet", [ROW])
    (row,) = open_run(store.folder).table("SELECT * FROM rows WHERE sample = ?", ["it's"]).to_pylist()
    assert {key: row[key] for key in ROW} == ROW
    assert row["error"] is None
    with pytest.raises(DataError, match="check the query"):
        store.table("SELECT nothing FROM nowhere")


HOSTILE = r"""value=99 method=rise metric=b model=x/value=1 year=2012 = a= =b a[1] a1 [abc] [!x] [a-z] [ ] ][ * ** w*ld
q?x ? {a,b} a,b it's '' dq" %41 back\slash ünï—名 ~ $HOME #hash a&b;c (x) -dash .hidden s3: a:b @{x} <> ! ^ `ls`"""


def test_a_run_reads_its_own_files_alone_whatever_its_folder_is_called(tmp_path):
    names = [*HOSTILE.split(), "sp ace"]
    assert len(names) >= 40
    for i, name in enumerate(names):
        store = Store.create(tmp_path / name / "run", "seed = 0")
        store.write(ROWS, "p.parquet", [{**ROW, "data": "d", "split": "s", "entry": "e", "value": i}])
    for i, name in enumerate(names):
        folder = tmp_path / name / "run"
        assert RunData(folder).query("SELECT value, method, metric, model FROM scores") == [(i, "a", "b", "m")]
        if i % 8 == 0:
            (row,) = open_run(folder).table("SELECT value, method, metric, model FROM rows").to_pylist()
            assert row == {"value": i, "method": "a", "metric": "b", "model": "m"}


def test_names_are_readable_and_never_shared():
    names = {part_name(*given) for given in [("a", "b c", 0), ("a", "b_c", 0), ("a_b", "c", 0), ("a", "b c", 1)]}
    assert len(names) == 4
    assert part_name("hf/x y", "smooth_cdam (n=3)", 7).startswith("hf_x_y--smooth_cdam_n_3--")


def test_a_failing_write_leaves_nothing(store, monkeypatch):
    store.write(ROWS, "x.parquet", [ROW])
    before = (store.folder / ROWS / "x.parquet").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("os.fsync", "os.replace", "pyarrow.parquet.write_table"):
        with monkeypatch.context() as broken:
            broken.setattr(step, lambda *_, **__: full())
            with pytest.raises(SeewhyError, match=r"no space left on the disk of .*resume"):
                store.write(ROWS, "x.parquet", [ROW, ROW])
        assert [path.name for path in (store.folder / ROWS).iterdir()] == ["x.parquet"]
        assert (store.folder / ROWS / "x.parquet").read_bytes() == before


def test_a_folder_that_is_read_only_says_so(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    monkeypatch.setattr("pathlib.Path.unlink", refuse)  # not even a draft that is not there can be removed
    with pytest.raises(SeewhyError, match=r"cannot write to .* \(Read-only file system\); fix it and run"):
        store.write_text("a", "b")


def test_a_run_on_a_full_disk_stops_with_advice_and_goes_on_later(tmp_path, monkeypatch):
    replace, left = os.replace, [6]

    def nearly_full(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*paths)

    plan = small(n="n = 4", metrics='metrics = ["sparseness"]')
    with monkeypatch.context() as broken:
        broken.setattr("os.replace", nearly_full)
        with pytest.raises(SeewhyError, match="seewhy bench resume"):
            engine.run(plan, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert 0 < len(Store(tmp_path / "run").done()) < 8
    assert len(engine.resume(tmp_path / "run").done()) == 8


def test_leftovers_of_dead_processes_go_those_of_living_ones_stay(store, dead):
    for host, pid in ((machine(), dead), (machine(), os.getpid()), ("0123abcd", dead)):
        (store.folder / ROWS / f".x.parquet.{host}-{pid}-abcdef12.tmp").write_text("half")
    store.tidy()
    left = {path.name for path in (store.folder / ROWS).iterdir()}
    assert left == {f".x.parquet.{machine()}-{os.getpid()}-abcdef12.tmp", f".x.parquet.0123abcd-{dead}-abcdef12.tmp"}


def test_a_folder_with_anything_in_it_is_refused_one_that_never_began_is_not(tmp_path):
    (tmp_path / "a" / "rows").mkdir(parents=True)
    Store.create(tmp_path / "a", "seed = 0")
    with pytest.raises(SeewhyError, match="resume"):
        Store.create(tmp_path / "a", "seed = 0")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "image.jpg").touch()
    with pytest.raises(SeewhyError, match="another folder"):
        Store.create(tmp_path / "b", "seed = 0")
    with pytest.raises(DataError, match="holds no benchmark run"):
        open_run(tmp_path / "b")


def test_a_manifest_of_the_future_is_refused(store):
    store.write_manifest({"schema": stores.SCHEMA + 1})
    with pytest.raises(DataError, match="upgrade"):
        _ = store.manifest


def test_a_claim_is_held_by_one_and_given_back(tmp_path):
    with claimed(tmp_path, "u") as first, claimed(tmp_path, "u") as second, claimed(tmp_path, "other") as third:
        assert (first, second, third) == (True, False, True)
    with claimed(tmp_path, "u") as again:
        assert again


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from seewhy.bench.execute.locks import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), 'u') as is_ours:\n"
        "    print(is_ours, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    with claimed(tmp_path, "u") as is_ours:
        assert not is_ours
    process.kill()
    process.wait()
    with claimed(tmp_path, "u") as is_ours:
        assert is_ours


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_disk_without_locks_is_worked_on_without_claims(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with claimed(tmp_path, "u") as first, claimed(tmp_path, "u") as second:
        assert first
        assert second


def test_a_folder_that_takes_no_claims_is_worked_on_without(tmp_path):
    (tmp_path / "claims").write_text("a file in the place of the folder")
    with claimed(tmp_path / "claims", "u") as is_ours:
        assert is_ours
