"""A run that is killed at any moment ends, once resumed, with the same table; two processes share one folder."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from plans import small, table

from seewhy.bench.execute import run as engine, worker as work
from seewhy.bench.store import Store
from seewhy.errors import OptionError, SeewhyError
from seewhy.models.fingerprint import fingerprint

PARTS = 16  # of the small plan: 4 batches of the model's answers, random, grad_cam, lafam


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> list[dict]:
    process = forks().Process(target=engine.run, args=(small(), tmp_path_factory.getbasetemp() / "whole"))
    process.start()
    process.join()
    return table(Store(tmp_path_factory.getbasetemp() / "whole"))


def forks():
    """Fresh processes with seewhy loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seewhy.bench.execute.run", "pyarrow.parquet"])
    return context


def start(folder: Path) -> multiprocessing.Process:
    begun = (folder / "plan.toml").exists()
    process = forks().Process(
        target=engine.resume if begun else engine.run, args=((folder,) if begun else (small(), folder))
    )
    process.start()
    return process


def kill_and_resume(folder: Path, kills: int, seed: int) -> list[int]:
    """Kill -9 after a random number of parts and a random while more; how many parts there were at each kill."""
    draws, seen = random.Random(seed), []
    while len(seen) < kills:
        process = start(folder)
        here = len(Store(folder).done())
        wanted = here + draws.randint(0, max(0, min(3, PARTS - 1 - here)))
        while process.is_alive() and len(Store(folder).done()) < wanted:
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.5 if wanted == here else 0.05))
        killed = process.is_alive()
        process.kill()
        process.join()
        seen.append(len(Store(folder).done()))
        assert killed == (process.exitcode == -signal.SIGKILL)
        if len(Store(folder).done()) == PARTS and len(seen) < kills:  # all done before the kills were: once more
            for path in draws.sample(sorted((folder / "rows").glob("*.parquet")), 10):
                path.unlink()
    last = start(folder)
    last.join()
    assert last.exitcode == 0
    return seen


def check(folder: Path, uninterrupted: list[dict]) -> None:
    assert len(Store(folder).done()) == PARTS
    assert table(Store(folder)) == uninterrupted
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "claims").exists()


def test_three_kills_leave_the_same_table(tmp_path, uninterrupted):
    kill_and_resume(tmp_path / "run", 3, seed=0)
    check(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_kills_leave_the_same_table(tmp_path, uninterrupted, seed):
    seen = kill_and_resume(tmp_path / "run", 10, seed)
    assert len(set(seen)) > 3  # they did not all come before the first part
    check(tmp_path / "run", uninterrupted)


def test_two_processes_share_a_folder(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    Store.create(folder, small().text)
    both = [start(folder) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    check(folder, uninterrupted)


def test_a_run_that_was_begun_with_the_former_words_goes_on(tmp_path):
    """The manifest and the plan of an earlier version say `prediction`, which is called `top-1` now."""
    folder = tmp_path / "run"
    former = 'device = "cpu"\ntarget = "prediction"'
    store = engine.run(small(n="n = 4", device=former), folder)
    want = table(store)
    manifest = store.manifest
    manifest["protocol"]["target"] = "prediction"
    store.write_manifest(manifest)
    next(path for path in (folder / "rows").iterdir() if "--lafam--" in path.name).unlink()
    assert table(engine.resume(folder, small(n="n = 4", device=former))) == want


def test_resume_does_no_finished_work_again(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    store = engine.run(small(n="n = 4"), folder)
    calls, loaded = [], []
    compute, load = work._UnitRunner._compute_batch, work.Benchmark.load

    def counted_compute(self, label, batch):
        calls.append(label)
        return compute(self, label, batch)

    def counted_load(self, batch):
        loaded.append(batch)
        return load(self, batch)

    monkeypatch.setattr(work._UnitRunner, "_compute_batch", counted_compute)
    monkeypatch.setattr(work.Benchmark, "load", counted_load)
    before = {path: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    engine.resume(folder)
    assert (calls, loaded) == ([], [])
    gone = next(path for path in before if "--lafam--" in path.name and "000001" in path.name)
    want = table(store)
    gone.unlink()
    engine.resume(folder)
    assert (calls, loaded) == (["lafam"], [1])
    assert table(store) == want
    assert all(path.stat().st_mtime_ns == then for path, then in before.items() if path != gone)


def test_another_plan_is_refused_and_other_versions_are_noted(tmp_path):
    folder = tmp_path / "run"
    plan = small(n="n = 2", metrics='metrics = ["sparseness"]')
    store = engine.run(plan, folder)
    started = store.manifest["started"]
    with pytest.raises(OptionError, match="another plan"):
        engine.resume(folder, small(n="n = 3"))
    store.write_manifest({**store.manifest, "versions": {**store.manifest["versions"], "torch": "1.0"}})
    engine.resume(folder, plan)
    (warning,) = store.manifest["warnings"]
    assert "torch 1.0 ->" in warning
    assert store.manifest["started"] == started
    (folder / "plan.toml").write_text(small(n="n = 3").text)
    with pytest.raises(OptionError, match="changed since"):
        engine.resume(folder)


def test_other_weights_or_images_are_refused_and_older_manifests_are_not(tmp_path):
    store = engine.run(small(n="n = 2", metrics='metrics = ["sparseness"]'), tmp_path / "run")
    good = store.manifest
    model, data = good["models"][0], good["data"]
    for change, error in (
        ({"models": [{**model, "weights": "0"}]}, "scenes_cnn has other weights"),
        ({"data": {**data, "items": "0"}}, "other samples than when"),
    ):
        store.write_manifest({**good, **change})
        with pytest.raises(SeewhyError, match=error):
            engine.resume(store.folder)
    older = {
        "plan_digest": "69f4f0a1321fefb8",
        "models": [{k: v for k, v in model.items() if k != "weights"}],
        "data": {k: v for k, v in data.items() if k != "items"},
    }
    store.write_manifest({**good, **older})
    assert engine.resume(store.folder).manifest["models"] == good["models"]


def test_the_fingerprint_is_of_every_value():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2).bfloat16())
    seen = {fingerprint(module)}
    assert fingerprint(module) in seen
    for values in (module[0].weight, module[1].running_var):
        with torch.no_grad():
            values[-1] += 0.5
        seen.add(fingerprint(module))
    assert len(seen) == 3


def test_a_part_that_was_cut_off_is_made_again(tmp_path):
    store = engine.run(small(n="n = 4", metrics='metrics = ["sparseness"]'), tmp_path / "run")
    want = table(store)
    for kind, batch, size in (("rows", 0, 300), ("maps", 1, 0)):
        path = next((store.folder / kind).glob(f"*lafam*{batch}.parquet"))
        path.write_bytes(path.read_bytes()[:size])
    engine.resume(store.folder)
    assert table(store) == want
    assert [line.split(": ", 1)[1][:25] for line in store.manifest["warnings"]] == ["broken, computed again: s"] * 2


def test_a_worker_needs_only_what_can_be_sent(tmp_path):
    plan = small(n="n = 4")
    bench = work.Benchmark(plan)
    store = Store.create(tmp_path / "run", plan.text)
    told = []
    for unit in bench.units:
        work.do_unit(plan.text, str(store.folder), unit, lambda *part: told.append(part))
    assert len(told) == len(store.done()) == 8
    assert table(store) == table(engine.run(plan, tmp_path / "other"))
