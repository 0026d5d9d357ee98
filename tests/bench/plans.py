"""Small plans, and what is compared of a run."""

from __future__ import annotations

from seewhy.bench.plan import Plan
from seewhy.bench.store import Store

SMALL = """
models = ["scenes_cnn"]
methods = ["grad_cam", "lafam"]
metrics = ["pointing_game", "sparseness", {name = "fidelity", n_steps = 2}]
[data]
name = "scenes"
split = "multi"
n = 8
[protocol]
batch_size = 2
device = "cpu"
"""


def small(**swap: str) -> Plan:
    """The small plan with some of its lines written anew: `n="n = 3"`."""
    lines = [swap.get(line.split(" =")[0], line) for line in SMALL.strip().splitlines()]
    return Plan.parse("\n".join(lines))


def table(store: Store) -> list[dict]:
    """All that a run found, in order, without the seconds that it took."""
    rows = store.table("SELECT * EXCLUDE (seconds) FROM rows ORDER BY model, method, metric, index, entry")
    maps = store.table("SELECT * FROM maps ORDER BY model, method, entry")
    images = store.table("SELECT * FROM images ORDER BY model, sample")
    return [*rows.to_pylist(), *maps.to_pylist(), *images.to_pylist()]
