"""A plan on Ray: the same table as on one machine, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from seewhy.bench.execute.run import Watcher, resume, run
from seewhy.bench.plan import Plan
from seewhy.errors import OptionError

pytest.importorskip("ray.data", reason="pip install 'seewhy[ray]'")

PLAN = """
models = ["scenes_cnn"]
methods = ["grad_cam", "lafam"]
metrics = ["pointing_game"]
data = { name = "scenes", split = "multi", n = 24 }
protocol = { batch_size = 2 }
"""
QUESTION = "SELECT model, sample, entry, method, metric, value, error FROM rows ORDER BY ALL"


class Killer(Watcher):
    """Kills one of the workers, for good, as soon as the first part is done."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def part(self, model: str, method: str, batch: int) -> None:
        if not self.killed:
            self.killed = workers()[:1]
            for pid in self.killed:
                os.kill(pid, signal.SIGKILL)


def workers() -> list[int]:
    """Processes that hold a model for Ray."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"MapWorker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker in /proc")
def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    from seewhy.bench.execute.ray_engine import on_ray

    plan, killer = Plan.parse(PLAN), Killer()
    alone = run(plan, tmp_path / "alone")
    spread = run(plan, tmp_path / "spread", killer, engine=on_ray(workers=2))
    assert len(killer.killed) == 1
    assert spread.table(QUESTION).equals(alone.table(QUESTION))
    assert spread.table(QUESTION).num_rows > 100
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "spread" / "rows").iterdir()}
    resume(tmp_path / "spread")  # there is nothing left to do, for whichever engine
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "spread" / "rows").iterdir()}


def test_no_workers_is_an_error() -> None:
    from seewhy.bench.execute.ray_engine import on_ray

    with pytest.raises(OptionError, match="workers=0"):
        on_ray(workers=0)
