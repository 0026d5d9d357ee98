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

from seewhy.core.io import atomic_file
from seewhy.data.scenes import CLASSES, Scenes

_CHUNK = 500


@dataclass(frozen=True)
class Pool:
    """A training set in memory (27 kB per image at 96 px: random reads from a slow disk would starve the training).

    Attributes:
        images: Bytes.
        targets: 1 for each class that is in the image.
    """

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
    """Return the first n scenes of a split from a folder, drawn first if they are not there yet.

    A draw that was killed is begun again: the targets are written last, and a pool without them does not count.

    Args:
        folder: Where pools are kept.
        split: Of `Scenes`.
        n: How many scenes.
        seed: Of the scenes.
        size: Side of an image in pixels.
        workers: Processes that draw.
        tick: Called with the number of scenes drawn so far.
    """
    scenes = Scenes(split, seed, n, size)
    stem = folder / f"{split}-{seed}-{size}-{n}-{_fingerprint(scenes)}"
    images_path, targets_path = stem.with_suffix(".images.npy"), stem.with_suffix(".targets.npy")
    if not targets_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _draw(images_path, targets_path, scenes, workers, tick)
    return Pool(np.load(images_path), np.load(targets_path))


def _fingerprint(scenes: Scenes) -> str:
    """Hash the first images: a pool drawn by another version of the scenes must not be taken for this one's."""
    first = [scenes[i].image.tobytes() for i in range(min(4, len(scenes)))]
    return hashlib.sha256(b"".join(first)).hexdigest()[:8]


def _draw(images_path: Path, targets_path: Path, scenes: Scenes, workers: int, tick: Callable[[int], None]) -> None:
    shape = (len(scenes), scenes.size, scenes.size, 3)
    images = np.lib.format.open_memmap(images_path, mode="w+", dtype=np.uint8, shape=shape)
    targets = np.zeros((len(scenes), len(CLASSES)), dtype=np.float32)
    starts = range(0, len(scenes), _CHUNK)
    with ProcessPoolExecutor(workers) as pool:
        chunks = pool.map(_draw_chunk, [scenes] * len(starts), starts)
        for start, (chunk_images, chunk_targets) in zip(starts, chunks, strict=True):
            end = start + len(chunk_images)
            images[start:end] = chunk_images
            targets[start:end] = chunk_targets
            tick(end)
    images.flush()
    with atomic_file(targets_path) as draft:
        np.save(draft, targets)


def _draw_chunk(scenes: Scenes, start: int) -> tuple[UInt8[ndarray, "n h w 3"], Float[ndarray, "n classes"]]:
    chunk = [scenes[i] for i in range(start, min(start + _CHUNK, len(scenes)))]
    images = np.stack([np.asarray(scene.image) for scene in chunk])
    return images, np.stack([multi_hot(scene.labels) for scene in chunk])


def multi_hot(labels: tuple[int, ...]) -> Float[ndarray, "classes"]:
    """Return 1 for each class that is in the image."""
    hot = np.zeros(len(CLASSES), dtype=np.float32)
    hot[list(labels)] = 1
    return hot
