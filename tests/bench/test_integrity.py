"""A run tells when its parts, its plan or its images are not what they were."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from bench.plans import table
from PIL import Image

from seewhy.bench.execute import run as engine
from seewhy.bench.execute.samples_seen import digest_of
from seewhy.bench.parts import ROWS, is_whole
from seewhy.bench.plan import Plan
from seewhy.bench.report.run_data import RunData
from seewhy.bench.store import Store
from seewhy.data import Scenes
from seewhy.errors import DataError

PLAN = """
models = ["scenes_cnn"]
methods = ["lafam", "grad_cam"]
metrics = ["pointing_game"]
[data]
name = "folder"
root = "{root}"
[protocol]
batch_size = 2
device = "cpu"
target = "top-1"
"""


@pytest.fixture
def images(tmp_path) -> Path:
    root = tmp_path / "data"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(6):
        scene = Scenes("single")[i]
        scene.image.save(root / "images" / f"{i}.png")
        Image.fromarray(scene.union.astype(np.uint8) * 255).save(root / "masks" / f"{i}.png")
    return root


@pytest.fixture
def run(images, tmp_path) -> Store:
    return engine.run(Plan.parse(PLAN.replace("{root}", str(images))), tmp_path / "run")


def unfinish(store: Store, batch: int, method: str = "grad_cam") -> None:
    """Take a part away, as if the run had been killed before it."""
    next((store.folder / ROWS).glob(f"*{method}*{batch}.parquet")).unlink()


@pytest.mark.parametrize("what", ["images", "masks"])
def test_an_image_or_mask_that_changed_under_its_name_stops_the_resumed_run(what, images, run):
    unfinish(run, 1)
    path = images / what / "3.png"
    old = path.read_bytes()
    values = np.asarray(Image.open(path)).copy()
    values[0, 0] = 255 - values[0, 0]
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=r"^3\.png: image or annotation changed since the run began"):
        engine.resume(run.folder)
    path.write_bytes(old)
    assert len(engine.resume(run.folder).done()) == 12


def test_images_of_finished_batches_are_looked_at_too(images, run):
    unfinish(run, 2)
    shutil.copy(images / "images" / "1.png", images / "images" / "0.png")
    with pytest.raises(DataError, match=r"^0\.png: image"):
        engine.resume(run.folder)


def test_a_sample_has_one_digest_and_every_part_of_it_counts():
    scene = Scenes("multi")[0]
    assert digest_of(scene) == digest_of(Scenes("multi")[0])
    assert digest_of(scene) != digest_of(Scenes("multi")[1])


def test_flipped_bits_are_noticed_and_computed_again(run):
    want = table(run)
    path = next((run.folder / ROWS).glob("*lafam*1.parquet"))
    good = path.read_bytes()
    random.seed(0)
    unnoticed = 0
    for _ in range(60):
        bad = bytearray(good)
        bad[random.randrange(len(bad))] ^= 1 << random.randrange(8)
        path.write_bytes(bad)
        if is_whole(path):
            unnoticed += 1
            try:
                assert table(run) == want, "what no checksum covers changes no number"
            except DataError:  # DuckDB stumbles where pyarrow does not
                assert run.drop_broken() == [path.name]
    assert unnoticed < 30
    path.write_bytes(good[:200] + bytes([good[200] ^ 64]) + good[201:])
    with pytest.raises(DataError, match=r"1 of 12 parts of .* are broken .*seewhy bench resume"):
        RunData(run.folder)
    engine.resume(run.folder)
    assert table(run) == want
    assert RunData(run.folder).panels


def test_parts_of_another_plan_are_found_without_a_manifest(run):
    (run.folder / "manifest.json").unlink()
    (run.folder / "plan.toml").write_text(run.plan_text.replace("batch_size = 2", "batch_size = 3"))
    with pytest.raises(DataError, match="holds parts of another plan"):
        engine.resume(run.folder)
