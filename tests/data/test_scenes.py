"""The made world: the same everywhere, exact masks, and attributes that do not tell on each other."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from seewhy.data.scenes import ABSENT, CLASSES, LARGEST, SMALLEST, SPLITS, TEXTURES, Scene, Scenes
from seewhy.data.scenes.backgrounds import compress
from seewhy.data.scenes.shapes import silhouette
from seewhy.data.scenes.textures import ink
from seewhy.errors import OptionError, UnknownNameError

TESTS = [name for name in SPLITS if not name.startswith("train")]


def _digest(*scenes: Scene) -> str:
    digest = hashlib.sha256()
    for scene in scenes:
        names = repr((scene.labels, scene.textures)).encode()
        for part in (scene.image.tobytes(), scene.masks.tobytes(), scene.mark.tobytes(), names):
            digest.update(part)
    return digest.hexdigest()


# Taken once from the generator as it was when the shipped weights were trained: a changed world must be noticed.
KNOWN = {"single": "e5d003c7f85a10cf", "multi": "d8195eb6bffdd5d5", "shortcut": "f5975948a7d43430"}


@pytest.mark.parametrize("split", KNOWN)
def test_the_world_is_the_one_that_the_weights_were_trained_on(split: str) -> None:
    assert _digest(Scenes(split)[3])[:16] == KNOWN[split]


def test_every_class_texture_and_bar_is_drawn_as_it_was_then() -> None:
    """One scene alone may lack what changed: a bar across an object lies in one of three only."""
    scenes = Scenes("multi")[:21]
    assert {label for scene in scenes for label in scene.labels} == set(range(len(CLASSES)))
    assert {texture for scene in scenes for texture in scene.textures} == set(range(len(TEXTURES)))
    assert _digest(*scenes)[:16] == "2e1622bb1e4f0efc"


def test_another_process_draws_the_same_bits_in_another_order() -> None:
    code = (
        "import hashlib; from seewhy.data.scenes import Scenes\n"
        "for i in (5, 2): s = Scenes('multi', seed=3)[i]; "
        "print(hashlib.sha256(s.image.tobytes() + s.masks.tobytes()).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    here = [Scenes("multi", seed=3, n=6)[i] for i in (2, 5)]
    assert told[::-1] == [hashlib.sha256(s.image.tobytes() + s.masks.tobytes()).hexdigest() for s in here]


@pytest.mark.parametrize("split", SPLITS)
def test_masks_are_exact_disjoint_and_of_the_promised_size(split: str) -> None:
    for scene in Scenes(split, n=15):
        assert scene.masks.shape == (len(scene.labels), 96, 96)
        assert scene.image.size == (96, 96)
        assert len(scene.textures) == len(scene.labels) == len(set(scene.labels))
        layers = np.concatenate([scene.masks, scene.mark[None], scene.background[None]])
        assert (layers.sum(0) == 1).all()  # each pixel belongs to exactly one thing
        shares = scene.masks.mean((1, 2))
        assert ((shares >= SMALLEST) & (shares <= LARGEST)).all()


def test_a_mask_is_where_the_picture_changes() -> None:
    """A plain object differs from its environment on its own side of the mask's border."""
    contrast = []
    for scene in Scenes("single", n=60):
        if scene.texture_names == ("plain",):
            pixels, mask = np.asarray(scene.image, dtype=float), scene.masks[0]
            inner = mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1)
            contrast.append(np.abs(pixels[inner].mean(0) - pixels[scene.background].mean(0)).max())
    assert len(contrast) >= 5
    assert min(contrast) > 20


def test_what_each_split_promises() -> None:
    assert {len(i.labels) for i in Scenes("single", n=20)} == {1}
    assert {len(i.labels) for i in Scenes("multi", n=20)} == {2, 3}
    assert all(len(i.labels) == 0 and not i.union.any() for i in Scenes("blank", n=5))
    for i, scene in enumerate(Scenes("concept", n=20)):
        assert scene.concept == i % len(TEXTURES)
        assert [t == scene.concept for t in scene.textures] == [True] + [False] * (len(scene.textures) - 1)
    for i, scene in enumerate(Scenes("shortcut", n=20)):
        assert (scene.mark_class == scene.labels[0]) == (i % 2 == 0)
        assert scene.mark.sum() == 144
    for i, scene in enumerate(Scenes("absent", n=10)):
        assert scene.labels[0] == ABSENT
        assert len(scene.labels) == 1 + i % 2
    assert all(ABSENT not in Scenes("train_absent").plan(i).classes for i in range(300))
    assert all(p.mark_class == p.classes[0] for p in (Scenes("train_shortcut").plan(i) for i in range(300)))


def test_class_and_texture_are_independent() -> None:
    """Pearson's chi-squared over class × texture stays under its 99.9 % point for 44 degrees of freedom (78.7)."""
    counts = np.zeros((len(CLASSES), len(TEXTURES)))
    scenes = Scenes("train")
    for i in range(2500):
        plan = scenes.plan(i)
        np.add.at(counts, (list(plan.classes), list(plan.textures)), 1)
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 78.7


def test_splits_and_seeds_share_nothing() -> None:
    assert len({split.number for split in SPLITS.values()}) == len(SPLITS)
    worlds = [(split, seed) for split in SPLITS for seed in range(20)]
    first = [Scenes(split, seed)._begin(0)[0].bit_generator.state["state"]["state"] for split, seed in worlds]
    assert len(set(first)) == len(worlds)


def test_a_mark_says_nothing_of_the_object_where_it_contradicts() -> None:
    pairs = {(p.classes[0], p.mark_class) for p in (Scenes("shortcut").plan(i) for i in range(1, 1000, 2))}
    assert all(a != b for a, b in pairs)
    assert len({b for _, b in pairs}) == len(CLASSES)
    assert len(pairs) > 100  # of the 132 that there are


@pytest.mark.parametrize("name", CLASSES)
def test_a_silhouette_has_the_area_that_was_asked_for(name: str) -> None:
    rng = np.random.default_rng(0)
    areas = [(silhouette(rng, name, 1500.0) >= 128).sum() for _ in range(5)]
    assert np.allclose(areas, 1500, rtol=0.1)


@pytest.mark.parametrize("name", TEXTURES)
def test_a_texture_repeats_at_its_period_and_mixes_both_colors(name: str) -> None:
    amount = ink(np.random.default_rng(1), name, 64, 64, 8.0)
    assert amount.shape == (64, 64)
    assert 0 <= amount.min() <= amount.max() <= 1
    low, high = (0, 0) if name == "plain" else (0.2, 0.7)
    assert low <= amount.mean() <= high


def test_compression_keeps_a_flat_block_and_loses_fine_detail() -> None:
    flat = np.full((16, 16, 3), 90.0)
    assert np.abs(compress(flat, 1.0).astype(int) - 90).max() <= 1
    noisy = np.random.default_rng(0).uniform(80, 100, (16, 16, 3))
    assert compress(noisy, 1.0).std() < 0.8 * noisy.std()
    assert np.abs(compress(noisy, 0.001).astype(float) - noisy).max() < 6  # steps of one: nearly lossless


@pytest.mark.parametrize("size", [48, 64, 160])
def test_other_sizes(size: int) -> None:
    scene = Scenes("multi", size=size)[1]
    assert scene.masks.shape[1:] == (size, size)
    assert scene.id == f"multi-0-1-{size}"


def test_a_sequence_like_any_other() -> None:
    scenes = Scenes("blank", n=3)
    assert len(scenes) == len(list(scenes)) == 3
    assert _digest(scenes[-1]) == _digest(scenes[2])
    with pytest.raises(IndexError):
        scenes[3]


def test_impossible_worlds() -> None:
    with pytest.raises(UnknownNameError, match="multi"):
        Scenes("mutli")
    with pytest.raises(OptionError, match="multiple of 16"):
        Scenes("single", size=100)
    with pytest.raises(OptionError, match="seed"):
        Scenes("single", seed=-1)


def test_an_item_prints_as_one_line() -> None:
    shown = repr(Scenes("multi")[0])
    assert shown.startswith("Scene('multi-0-0-96', 96 × 96 px, labels (")
    assert shown.endswith("with masks, boxes)")
    assert len(shown) < 100
