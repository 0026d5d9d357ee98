"""A training set drawn once and kept on disk, so that an epoch costs no drawing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from seewhy.data.scenes import CLASSES, Scenes

_CHUNK = 500


@dataclass(frozen=True)
class Pool:
    """Pictures, all in memory (27 kB each at 96 px: random reads from a slow disk would starve the training)."""

    images: UInt8[ndarray, "n h w 3"]
    targets: Float[ndarray, "n classes"]

    def __len__(self) -> int:
        return len(self.images)


def scene_pool(
    folder: Path,
    split: str,
    n: int,
    seed: int = 0,
    size: int = 96,
    workers: int = 1,
    tick: Callable[[int], None] = lambda done: None,
) -> Pool:
    """The first n scenes of a split from `folder`, drawn first if they are not there yet.

    `tick` is called with the number of scenes drawn so far. A draw that was killed is begun again: the targets are
    written last, and a pool without them does not count.
    """
    scenes = Scenes(split, seed, n, size)
    stem = folder / f"{split}-{seed}-{size}-{n}-{_fingerprint(scenes)}"
    pictures, answers = stem.with_suffix(".images.npy"), stem.with_suffix(".targets.npy")
    if not answers.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _draw(pictures, answers, scenes, workers, tick)
    return Pool(np.load(pictures), np.load(answers))


def _fingerprint(scenes: Scenes) -> str:
    """Of the first pictures: a pool drawn by another version of the world must not be taken for this one's."""
    return hashlib.sha256(b"".join(scenes[i].image.tobytes() for i in range(min(4, len(scenes))))).hexdigest()[:8]


def _draw(pictures: Path, answers: Path, scenes: Scenes, workers: int, tick: Callable[[int], None]) -> None:
    images = np.lib.format.open_memmap(
        pictures, mode="w+", dtype=np.uint8, shape=(len(scenes), scenes.size, scenes.size, 3)
    )
    targets = np.zeros((len(scenes), len(CLASSES)), dtype=np.float32)
    starts = range(0, len(scenes), _CHUNK)
    with ProcessPoolExecutor(workers) as pool:
        for start, (block, hot) in zip(starts, pool.map(_chunk, [scenes] * len(starts), starts), strict=True):
            images[start : start + len(block)] = block
            targets[start : start + len(block)] = hot
            tick(start + len(block))
    images.flush()
    part = answers.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, targets)
    part.replace(answers)


def _chunk(scenes: Scenes, start: int) -> tuple[UInt8[ndarray, "n h w 3"], Float[ndarray, "n classes"]]:
    items = [scenes[i] for i in range(start, min(start + _CHUNK, len(scenes)))]
    return np.stack([np.asarray(item.image) for item in items]), np.stack([multi_hot(item.labels) for item in items])


def multi_hot(labels: tuple[int, ...]) -> Float[ndarray, "classes"]:
    """1 for each class that is in the picture."""
    hot = np.zeros(len(CLASSES), dtype=np.float32)
    hot[list(labels)] = 1
    return hot
