"""Training on scenes: a killed run ends where an unbroken one does, and the figures are right on paper."""

from __future__ import annotations

import csv
import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seewhy.core.tensor_files import read_tensors
from seewhy.data.scenes import CLASSES, Scenes
from seewhy.errors import OptionError, UnknownNameError, WeightsError
from seewhy.models.reference.scenes import SceneCNN, build
from seewhy.training import evaluate as figures
from seewhy.training.batches import PoolData, window_at
from seewhy.training.distil import DistilledStudent
from seewhy.training.pool import Pool, scene_pool
from seewhy.training.recipes import RECIPES, Recipe, parse_changes
from seewhy.training.run import CHECKPOINT
from seewhy.training.scenes import SceneTask, train
from seewhy.training.weights import save_half

TINY = {"images": 12, "batch": 4, "steps": 5, "warmup": 2}
NARROW = {"options": {"widths": (8, 8, 8, 8)}}
SMALL = {"options": {"dim": 16, "depth": 2, "num_heads": 2}, "window": 0.5}


@pytest.fixture(scope="module")
def pool_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One drawing for all tests."""
    folder = tmp_path_factory.mktemp("pool")
    scene_pool(folder, "train", 12)
    return folder


@contextmanager
def stopping_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the block, runs are stopped at a step."""
    plain = SceneTask.loss

    def stopped(self: SceneTask, batch: dict, epoch: int) -> dict:
        if self.step == step:
            raise KeyboardInterrupt
        return plain(self, batch, epoch)

    with monkeypatch.context() as patched:
        patched.setattr(SceneTask, "loss", stopped)
        yield


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("name", "changes"), [("scenes_cnn", NARROW), ("scenes_vit", SMALL)])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_resumed_run_ends_in_the_same_bits(
    name: str, changes: dict, precision: str, tmp_path: Path, pool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = dict(TINY, **changes, pool_dir=pool_dir, precision=precision, every=2, quiet=True, threads=1)
    whole = train(name, tmp_path / "whole", **common)
    with stopping_at(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(name, tmp_path / "broken", **common)
    torch.rand(7)  # the process's generator must not matter
    resumed = train(name, tmp_path / "broken", resume=True, **common)
    assert _same(whole.state_dict(), resumed.state_dict())
    ends = [read_tensors(tmp_path / run / CHECKPOINT)[0] for run in ("whole", "broken")]
    assert any(key.startswith("optimizer|") for key in ends[0])
    assert _same(*ends)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path, pool_dir: Path) -> None:
    """Equal halves of a batch: the mean of their gradients is the batch's, up to rounding."""
    code = (
        "import sys; from seewhy.training.scenes import train\n"
        "train('scenes_vit', sys.argv[1], teacher=None, augment=False, images=12, batch=4, steps=5, "
        "warmup=2, quiet=True, precision='fp32', threads=1, pool_dir=sys.argv[2], "
        "options={'dim': 16, 'depth': 2, 'num_heads': 2})"
    )
    (tmp_path / "run.py").write_text(code)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    ends = []
    for size in ("1", "2"):
        out = tmp_path / size
        subprocess.run([*start, size, tmp_path / "run.py", out, pool_dir], check=True, capture_output=True)
        ends.append(read_tensors(out / "student.safetensors"))
    assert ends[1][1]["processes"] == 2
    for key, value in ends[0][0].items():
        torch.testing.assert_close(ends[1][0][key], value, rtol=1e-3, atol=1e-4)


def test_training_learns_and_writes_half_precision(tmp_path: Path, pool_dir: Path) -> None:
    model = train("scenes_cnn", tmp_path, **dict(TINY, **NARROW, steps=40), pool_dir=pool_dir, quiet=True, threads=1)
    with (tmp_path / "log.csv").open() as file:
        losses = [float(line["loss"]) for line in csv.DictReader(file)]
    assert losses[-1] < losses[0]
    saved = load_file(tmp_path / "model.safetensors")
    assert saved["fc.weight"].dtype == torch.float16
    assert torch.equal(saved["fc.weight"], model.fc.weight.half())


def test_what_cannot_be_trained(tmp_path: Path, pool_dir: Path) -> None:
    common = dict(TINY, **NARROW, pool_dir=pool_dir, quiet=True)
    with pytest.raises(UnknownNameError, match="scenes_cnn"):
        train("scenes_cn", tmp_path)
    with pytest.raises(UnknownNameError, match="steps"):
        train("scenes_cnn", tmp_path, step=3)
    with pytest.raises(OptionError, match="bf16"):
        train("scenes_cnn", tmp_path, precision="fp8")
    with pytest.raises(WeightsError, match="without --resume"):
        train("scenes_cnn", tmp_path / "nothing", resume=True, **common)
    train("scenes_cnn", tmp_path / "run", **common)
    with pytest.raises(OptionError, match="--resume"):
        train("scenes_cnn", tmp_path / "run", **common)
    with pytest.raises(WeightsError, match="another recipe"):
        train("scenes_cnn", tmp_path / "run", resume=True, **dict(common, steps=9))


def test_augmentation_keeps_the_pool_and_the_shapes() -> None:
    images = np.stack([np.asarray(s.image) for s in Scenes("single", n=4)])
    before = images.copy()
    data = PoolData(Pool(images, np.zeros((4, 12), np.float32)), augment=True)
    out = data.batch(range(4), np.random.default_rng)["images"].numpy()
    assert (images == before).all()
    assert all((a != b).any() for a, b in zip(out, before, strict=True))
    assert out.shape == before.shape
    assert (data.batch([2], None)["images"].numpy() == before[2:3]).all()


def test_a_window_is_a_square_of_patches() -> None:
    recipe = Recipe("SceneViT", steps=100, window=0.5)
    window = window_at(recipe, 7, side=12)
    rows, columns = np.unique(window // 12), np.unique(window % 12)
    assert len(window) == 64
    assert len(rows) == len(columns) == 8
    assert np.ptp(rows) == np.ptp(columns) == 7
    assert window_at(recipe, 50, side=12) is None


def test_the_teacher_is_left_alone(tmp_path: Path) -> None:
    student = DistilledStudent(dataclasses.replace(RECIPES["scenes_vit"], options=SMALL["options"]))
    before = {k: v.clone() for k, v in student.teacher.state_dict().items()}
    student.train()
    student.loss(torch.randn(2, 3, 96, 96), torch.zeros(2, 12)).backward()
    assert _same(before, student.teacher.state_dict())
    assert all(p.grad is None for p in student.teacher.parameters())
    assert student.projections[0][1].weight.grad.abs().sum() > 0


def test_average_precision_on_paper() -> None:
    truth = np.array([True, False, True, False])
    assert figures.average_precision(np.array([0.9, 0.8, 0.7, 0.1]), truth) == pytest.approx((1 + 2 / 3) / 2)
    assert figures.average_precision(np.zeros(4), truth) == pytest.approx(0.5)
    assert math.isnan(figures.average_precision(np.zeros(4), np.zeros(4, dtype=bool)))
    scores, answers = np.array([[0.9, 0.1], [0.2, 0.3]]), np.array([[True, True], [False, False]])
    assert figures.mean_average_precision(scores, answers) == pytest.approx((1 + 0.5) / 2)


def test_calibration_on_paper() -> None:
    truth = np.array([[True], [True], [True], [False]])
    assert figures.calibration_error(np.full((4, 1), 0.75), truth) == pytest.approx(0)
    assert figures.calibration_error(np.full((4, 1), 1.0), truth) == pytest.approx(0.25)
    assert figures.calibration_error(
        np.array([[0.9], [0.9], [0.1], [0.1]]), np.array([[True], [True], [True], [False]])
    ) == pytest.approx(0.25)


def test_evaluation_asks_the_right_question_of_each_split() -> None:
    model = SceneCNN(widths=(8, 8, 8, 8)).train()
    assert figures.evaluate(model, "blank", 4).keys() == {"alarm"}
    shortcut = figures.evaluate(model, "shortcut", 8)
    assert shortcut.keys() == {"mAP", "ECE", "top1", "mark wins", "object wins"}
    assert model.training

    class Oracle(torch.nn.Module):
        """Knows the answers in order."""

        def __init__(self, plans: list) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.plans = iter(plans)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hot = torch.full((len(x), len(CLASSES)), -9.0)
            for row in hot:
                row[next(self.plans)] = 9.0
            return hot

    marks = [Scenes("shortcut").plan(i).mark_class for i in range(20)]
    fooled = figures.evaluate(Oracle(marks), "shortcut", 20)
    assert (fooled["mark wins"], fooled["object wins"], fooled["top1"]) == (1.0, 0.0, 0.5)
    knowing = figures.evaluate(Oracle([list(Scenes("multi").plan(i).classes) for i in range(20)]), "multi", 20)
    assert knowing["mAP"] == knowing["top1"] == 1.0


def test_half_precision_keeps_whole_numbers(tmp_path: Path) -> None:
    model = build("SceneCNN", widths=(8, 8, 8, 8))
    model.bn1.num_batches_tracked += 70000  # more than half precision can hold
    save_half(model, tmp_path / "m.safetensors")
    assert load_file(tmp_path / "m.safetensors")["bn1.num_batches_tracked"] == 70000


def test_changes_are_read_as_their_fields() -> None:
    assert parse_changes(["steps=5", "lr=1e-3", "augment=no", "teacher=none"]) == {
        "steps": 5,
        "lr": 1e-3,
        "augment": False,
        "teacher": None,
    }
    with pytest.raises(OptionError, match="KEY=VALUE"):
        parse_changes(["steps"])
    with pytest.raises(OptionError, match="must be a number"):
        parse_changes(["steps=many"])
    with pytest.raises(UnknownNameError):
        parse_changes(["stepz=1"])


def test_a_pool_is_drawn_once_and_never_half(tmp_path: Path) -> None:
    pool = scene_pool(tmp_path, "multi", 3)
    assert (pool.images[2] == np.asarray(Scenes("multi")[2].image)).all()
    assert pool.targets[2].nonzero()[0].tolist() == sorted(Scenes("multi")[2].labels)
    (answers,) = tmp_path.glob("*.targets.npy")
    answers.unlink()  # as if killed before the end
    assert (scene_pool(tmp_path, "multi", 3).images == pool.images).all()
    assert answers.exists()


def test_a_fresh_run_does_not_depend_on_the_process() -> None:
    recipe = dataclasses.replace(RECIPES["scenes_cnn"], **NARROW)
    first = SceneTask(recipe).student.state_dict()
    torch.rand(3)
    assert _same(first, SceneTask(recipe).student.state_dict())


def test_what_ships_is_measured_on_the_half_precision_weights(tmp_path: Path, pool_dir: Path) -> None:
    from seewhy.training.export import ship

    train("scenes_cnn", tmp_path / "run", **TINY, **NARROW, pool_dir=pool_dir, quiet=True, threads=1)
    info = ship("scenes_cnn", tmp_path / "run", tmp_path / "new" / "weights", n=6)
    state = load_file(tmp_path / "new" / "weights" / "scenes_cnn.safetensors")
    model = build("SceneCNN", **NARROW["options"])
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    again = figures.evaluate(model.eval(), "single", 6)
    assert all(v.dtype == torch.float16 for v in state.values() if v.is_floating_point())
    assert info["figures"]["single"] == {k: pytest.approx(v, abs=1e-4, nan_ok=True) for k, v in again.items()}
    assert info["changes"]["steps"] == TINY["steps"]  # the card's command names what is not in the recipe
    card = (tmp_path / "new" / "weights" / "MODEL_CARD.md").read_text()
    assert "--set steps=5" in card
    assert f"| scenes_cnn | {info['parameters']:,} | single | {info['figures']['single']['mAP']:.3f} |" in card


def test_an_unfinished_run_does_not_ship(tmp_path: Path, pool_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seewhy.training.export import ship

    with stopping_at(2, monkeypatch), pytest.raises(KeyboardInterrupt):
        train("scenes_cnn", tmp_path, **TINY, **NARROW, pool_dir=pool_dir, quiet=True, threads=1)
    with pytest.raises(WeightsError, match="has not come to its last step; finish it with --resume"):
        ship("scenes_cnn", tmp_path, tmp_path / "weights")
