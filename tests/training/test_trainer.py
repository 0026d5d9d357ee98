"""The trainer: a killed run ends where an unbroken one does, and what goes wrong costs no checkpoint."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seewhy.errors import DataError, NonFiniteError, OptionError, SeewhyError, UnknownNameError, WeightsError
from seewhy.training.checkpoint import read_tensors
from seewhy.training.history import History
from seewhy.training.loading import Batching
from seewhy.training.run import CHECKPOINT
from seewhy.training.schedules import Constant, Cosine, Cyclic, Exponential, Moment
from seewhy.training.task import SampleData, Task
from seewhy.training.trainer import fit


class Points(SampleData):
    """Noisy points of a plane; augmentation adds noise."""

    def __init__(self, n: int = 22, bad: int | None = None) -> None:
        rng = np.random.default_rng(5)
        self.x = torch.from_numpy(rng.normal(size=(n, 3)).astype(np.float32))
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5])
        if bad is not None:
            self.x[bad] = torch.nan

    def __len__(self) -> int:
        return len(self.x)

    def name(self, index: int) -> str:
        return f"point-{index}"

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        noise = 0.0 if rng is None else 0.01 * float(rng.normal())
        return {"x": self.x[index] + noise, "y": self.y[index]}


class Plane(Task):
    """A small network with dropout, which stops the process at a step if asked to."""

    def __init__(self, kill_at: int | None = None, width: int = 8) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            self.module = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Dropout(0.2), nn.Linear(width, 1))
        self.kill_at, self.calls = kill_at, 0

    def loss(self, batch: Mapping[str, Tensor], epoch: int) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.kill_at:
            os.kill(os.getpid(), 9)
        error = (self.module(batch["x"])[:, 0] - batch["y"]) ** 2
        return {"loss": error.mean(), "worst": error.max()}

    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": (self.module(batch["x"])[:, 0] - batch["y"]) ** 2}


def train(out: Path, task: Plane | None = None, **changes: object) -> tuple[Plane, History]:
    task = task or Plane()
    options = dict(epochs=4, batch_size=4, lr=0.01, device="cpu", validation=Points(6), progress=False) | changes
    return task, fit(task, Points(), out=out, **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ── resumption ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("every", [None, 2])
def test_a_run_killed_in_an_epoch_ends_in_the_same_bits(every: int | None, tmp_path: Path) -> None:
    whole, history = train(tmp_path / "whole")
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from pathlib import Path; import test_trainer as t\n"
        f"t.train(Path(sys.argv[3]), t.Plane(kill_at=10), every={every})"
    )
    here = Path(__file__)
    started = [sys.executable, "-c", code, str(here.parent), str(here.parents[1]), str(tmp_path / "killed")]
    assert subprocess.run(started, capture_output=True).returncode == -9
    _, info = read_tensors(tmp_path / "killed" / CHECKPOINT)
    assert info["history"]["steps"] == (6 if every is None else 8)  # six steps are an epoch
    torch.rand(7)  # the process's generator does not matter
    resumed, after = train(tmp_path / "killed", resume=True, every=every)
    assert same(whole.module, resumed.module)
    assert after.column("loss") == history.column("loss")
    assert after.column("val_loss") == history.column("val_loss")
    ends = [read_tensors(tmp_path / run / CHECKPOINT)[0] for run in ("whole", "killed")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_workers_and_parts_change_no_result(tmp_path: Path) -> None:
    def linear() -> Plane:
        task = Plane()
        task.module[2].p = 0.0  # dropout draws once per part
        return task

    one, _ = train(tmp_path / "one", linear(), epochs=2)
    two, _ = train(tmp_path / "two", linear(), epochs=2, workers=1)
    parts, _ = train(tmp_path / "parts", linear(), epochs=2, accumulate=3)
    assert same(one.module, two.module)
    for a, b in zip(one.module.parameters(), parts.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; import test_trainer as t\n"
        "for run in ('a', 'b'):\n"  # the second run finds the processes there
        "    task = t.Plane(); task.module[2].p = 0.0\n"
        "    _, h = t.train(Path(sys.argv[3]) / run, task, devices=int(sys.argv[4]), epochs=2, optimizer='sgd')\n"
        "    if h.leads: print(h.column('val_loss'))\n"
    )
    (tmp_path / "run.py").write_text(code)
    here, ends = Path(__file__), []
    for devices in ("1", "2"):
        out = tmp_path / devices
        run = [sys.executable, tmp_path / "run.py", here.parent, here.parents[1], out, devices]
        done = subprocess.run([str(part) for part in run], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        ends.append(read_tensors(out / "b" / CHECKPOINT))
    for key, value in ends[0][0].items():
        torch.testing.assert_close(ends[1][0][key], value, rtol=1e-3, atol=1e-4)
    for a, b in zip(ends[0][1]["history"]["epochs"], ends[1][1]["history"]["epochs"], strict=True):
        assert (a["step"], a["val_loss"]) == (b["step"], pytest.approx(b["val_loss"], rel=1e-3))
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


# ── what a run does ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_step_is_adams(tmp_path: Path) -> None:
    """One epoch without augmentation and dropout, against the loop written out."""
    task, other = Plane(), Plane()
    data = Points()
    data.sample = lambda i, rng: {"x": data.x[i], "y": data.y[i]}  # type: ignore[method-assign]
    task.module[2].p = other.module[2].p = 0.0
    history = fit(task, data, out=tmp_path, epochs=2, batch_size=4, lr=0.01, schedule=Exponential(0.5), device="cpu")
    optimizer = torch.optim.Adam(other.module.parameters(), lr=0.01)
    for epoch in range(2):
        total = 0.0
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * 0.5**epoch
        for step in Batching(22, 4, 0).epoch(epoch):
            ((chosen, share),) = step
            assert share == 1.0
            error = other.loss({"x": data.x[chosen], "y": data.y[chosen]}, epoch)["loss"]
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            total += error.item()
        assert history.epochs[epoch]["loss"] == pytest.approx(total / 6)
    assert same(task.module, other.module)


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    class Rising(Plane):
        def metrics(self, values: Mapping[str, Tensor]) -> dict[str, float]:
            self.weights = [*getattr(self, "weights", []), {k: v.clone() for k, v in self.state().items()}]
            return {"accuracy": [0.1, 0.5, 0.4, 0.5, 0.3, 0.9][len(self.weights) - 1]}

    task = Rising()
    _, history = train(tmp_path, task, epochs=6, monitor="accuracy", maximize=True, patience=3)
    assert (history.best, history.stopped, len(history.epochs)) == (1, "no gain", 5)
    assert all(torch.equal(v, task.weights[1][k]) for k, v in task.module.state_dict().items())
    with (tmp_path / "log.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["val_accuracy"]) for line in lines] == [0.1, 0.5, 0.4, 0.5, 0.3]
    assert history.best_line["val_accuracy"] == 0.5
    again = train(tmp_path, Rising(), epochs=6, monitor="accuracy", maximize=True, patience=3, resume=True)
    assert again[1].epochs == history.epochs  # a finished run has nothing left to do
    assert same(again[0].module, task.module)


def test_an_epoch_may_freeze_parts(tmp_path: Path) -> None:
    class Alternating(Plane):
        seen: list[Tensor]

        def start_epoch(self, epoch: int) -> None:
            self.seen = [*getattr(self, "seen", []), self.module[0].weight.detach().clone()]
            self.module[0].requires_grad_(epoch % 2 == 1)

    task, _ = train(tmp_path, Alternating(), epochs=3, validation=None)
    assert torch.equal(task.seen[0], task.seen[1])
    assert not torch.equal(task.seen[1], task.seen[2])
    assert all(p.requires_grad and p.grad is None for p in task.module.parameters())


def test_what_is_not_trained_stays(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    task = Plane()
    task.module[0].requires_grad_(False)
    task.module.eval()
    first = task.module[0].weight.clone()
    train(tmp_path, task, epochs=1)
    assert torch.equal(first, task.module[0].weight)
    assert not task.module.training
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("precision", ["bf16", "32"])
def test_targets_keep_their_precision(precision: str, tmp_path: Path) -> None:
    class Looking(Plane):
        def loss(self, batch: Mapping[str, Tensor], epoch: int) -> dict[str, Tensor]:
            self.types = (batch["y"].dtype, self.module[0](batch["x"]).dtype)
            return super().loss(batch, epoch)

    task, history = train(tmp_path, Looking(), precision=precision, epochs=1)
    assert task.types == (torch.float32, torch.bfloat16 if precision == "bf16" else torch.float32)
    assert task.module[0].weight.dtype == torch.float32
    assert history.steps == 6


def test_schedules_on_paper() -> None:
    def rates(schedule, steps=(0, 1, 9, 10, 55, 100)) -> list[float]:
        return [schedule(Moment(step, 100, 10)) for step in steps]

    assert rates(Constant()) == [1.0] * 6
    assert rates(Exponential(0.95)) == pytest.approx([1, 1, 1, 0.95, 0.95**5, 0.95**10])
    assert rates(Cosine(10)) == pytest.approx([0.1, 0.2, 1.0, 1.0, 0.5, 0.0])
    assert rates(Cyclic(2, 0.2), (0, 10, 20, 30, 40)) == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2])


def test_every_sample_once_per_epoch_on_every_number_of_devices() -> None:
    for devices, accumulate in ((1, 1), (2, 1), (2, 3), (3, 2)):
        seen, shares = [], np.zeros(6)
        for rank in range(devices):
            epoch = Batching(22, 4, 0, accumulate, devices, rank).epoch(3)
            counts = [len(step) for step in epoch]
            seen += [int(i) for step in epoch for part, _ in step for i in part]
            shares[: len(epoch)] += [sum(share for _, share in step) for step in epoch]
            assert counts == [len(step) for step in Batching(22, 4, 0, accumulate, devices, 0).epoch(3)]
        left = 2 if devices == 3 else 0  # two samples are too few for three
        assert len(set(seen)) == len(seen) == 22 - left
        assert shares[: len(epoch)] == pytest.approx(1.0)
    assert [len(p) for s in Batching(22, 4, 0, drop_last=True).epoch(0) for p, _ in s] == [4] * 5


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_loss_that_is_no_number_names_the_samples_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    order = [p.tolist() for step in Batching(22, 4, 0).epoch(1) for p, _ in step]
    bad = order[2][0]

    class Later(Points):
        def batch(self, indices, draw):
            batch = super().batch(indices, draw)
            if list(indices) == order[2]:
                batch["x"][0] = torch.nan
            return batch

    with pytest.raises(NonFiniteError, match=rf"loss is nan in epoch 1, step 2.*point-{bad}.*checkpoint is kept") as e:
        fit(Plane(), Later(), out=tmp_path / "run", epochs=2, batch_size=4, device="cpu", every=1)
    assert "\n" not in str(e.value)
    tensors, info = read_tensors(tmp_path / "run" / CHECKPOINT)
    assert info["history"]["steps"] == 8
    assert all(t.isfinite().all() for t in tensors.values())
    with pytest.raises(NonFiniteError, match=r"and 2 more, all in .*nonfinite\.json"):
        fit(Plane(), Points(bad=0), out=tmp_path / "all", epochs=1, batch_size=10, device="cpu", drop_last=True)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "whole", epochs=1)
    code = (
        "import resource, sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; import test_trainer as t\n"
        "class Filling(t.Plane):\n"
        "    def start_epoch(self, epoch):\n"
        "        if epoch == 1: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "t.train(Path(sys.argv[3]), Filling())"
    )
    here = Path(__file__)
    run = [sys.executable, "-c", code, str(here.parent), str(here.parents[1]), str(tmp_path / "full")]
    done = subprocess.run(run, capture_output=True, text=True)
    assert "SeewhyError: cannot write" in done.stderr
    assert "the one from before is kept" in done.stderr
    tensors, info = read_tensors(tmp_path / "full" / CHECKPOINT)
    assert info["history"]["steps"] == 6
    expected, _ = read_tensors(tmp_path / "whole" / CHECKPOINT)
    assert all(torch.equal(tensors[key], value) for key, value in expected.items())
    assert not list((tmp_path / "full").glob(".*"))


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    with pytest.raises(OptionError, match="already holds a run"):
        train(tmp_path, epochs=1)
    with pytest.raises(WeightsError, match=r"'0\.weight' is \(8, 3\) there and \(9, 3\) here"):
        train(tmp_path, Plane(width=9), epochs=1, resume=True)
    deeper = Plane()
    deeper.module.append(nn.Linear(1, 1))
    with pytest.raises(WeightsError, match=r"it lacks '4\.weight' and 1 more"):
        train(tmp_path, deeper, epochs=1, resume=True)
    with pytest.raises(WeightsError, match=r"another lr \(0\.01, now 0\.02\)"):
        train(tmp_path, epochs=1, lr=0.02, resume=True)

    class Described(Plane):
        def describe(self) -> dict[str, str]:
            return {"backbone": "ab12"}

    with pytest.raises(WeightsError, match='another backbone \\(null, now "ab12"\\)'):
        train(tmp_path, Described(), epochs=1, resume=True)
    (tmp_path / CHECKPOINT).write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        train(tmp_path, epochs=1, resume=True)


def test_what_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training data have no samples"):
        fit(Plane(), Points(0), out=tmp_path, epochs=1, batch_size=4, device="cpu")
    with pytest.raises(OptionError, match="batch_size=0"):
        train(tmp_path, batch_size=0)
    with pytest.raises(OptionError, match="choose from 32, bf16, 16"):
        train(tmp_path, precision="fp8")
    with pytest.raises(UnknownNameError, match="did you mean 'adamw'"):
        train(tmp_path, optimizer="adamww")
    with pytest.raises(UnknownNameError, match="figure to monitor 'los'"):
        train(tmp_path, monitor="los")
    frozen = Plane()
    frozen.module.requires_grad_(False)
    with pytest.raises(OptionError, match="no parameter requires gradients"):
        train(tmp_path, frozen)
    with pytest.raises(OptionError, match="CUDA"):
        train(tmp_path, precision="16")
    (tmp_path / "file").write_text("")
    with pytest.raises(SeewhyError, match="choose another folder"):
        train(tmp_path / "file" / "run")
