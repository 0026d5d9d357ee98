"""Scenes: a synthetic world whose answers are known.

Class is the shape of an object, concept is its texture, and the two are drawn independently; every sample knows the
exact visible mask of each object. `Scenes("multi")[7]` is the same image, bit for bit, whatever was drawn before it
and on whichever machine: a sample is a function of (seed, split, index, size) alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from seewhy.core.boxes import masks_to_boxes
from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Sample, dataset
from seewhy.errors import OptionError, UnknownNameError

from .compose import LARGEST, SMALLEST, ScenePlan, compose
from .shapes import CLASSES
from .textures import TEXTURES

__all__ = ["ABSENT", "CLASSES", "LARGEST", "SMALLEST", "SPLITS", "TEXTURES", "Scene", "Scenes", "Split"]

ABSENT = CLASSES.index("fish")
"""The class that `train_absent` never shows."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Scene(Sample):
    """A sample of the synthetic world.

    Attributes:
        masks: What is visible of each object: no two of them overlap.
        textures: The texture of each object, as an index into `TEXTURES`.
        mark: The pixels of the corner mark.
        mark_class: The class that the corner mark stands for; None where there is no mark.
        concept: The texture that the sample asks about (split `concept`); it is on the first object and on no other.
    """

    # no default in place of None: a scene always has masks
    masks: Bool[ndarray, "objects h w"]  # pyright: ignore[reportGeneralTypeIssues]
    textures: tuple[int, ...]
    mark: Bool[ndarray, "h w"]
    mark_class: int | None = None
    concept: int | None = None

    @property
    def union(self) -> Bool[ndarray, "h w"]:
        """Where any object is visible."""
        return np.asarray(self.masks.any(0))

    @property
    def background(self) -> Bool[ndarray, "h w"]:
        """Where neither an object nor the mark is."""
        return ~(self.union | self.mark)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each object."""
        return tuple(CLASSES[i] for i in self.labels)

    @property
    def texture_names(self) -> tuple[str, ...]:
        """The texture of each object."""
        return tuple(TEXTURES[i] for i in self.textures)


def _about(plan: ScenePlan) -> dict[str, Any]:
    """Describe a plan by names: the textures, and what a mark or a concept stands for where there is one."""
    about: dict[str, Any] = {"textures": [TEXTURES[t] for t in plan.textures]}
    if plan.mark_class is not None:
        about["mark_class"] = CLASSES[plan.mark_class]
    if plan.concept is not None:
        about["concept"] = TEXTURES[plan.concept]
    return about


def _draw(rng: np.random.Generator, k: int, without: tuple[int, ...] = ()) -> ScenePlan:
    """Plan k objects of different classes, each of any texture."""
    classes = rng.permutation([c for c in range(len(CLASSES)) if c not in without])[:k]
    return ScenePlan(tuple(map(int, classes)), tuple(map(int, rng.integers(0, len(TEXTURES), k))))


def _single(rng: np.random.Generator, index: int) -> ScenePlan:
    return _draw(rng, 1)


def _multi(rng: np.random.Generator, index: int) -> ScenePlan:
    return _draw(rng, int(rng.integers(2, 4)))


def _blank(rng: np.random.Generator, index: int) -> ScenePlan:
    return ScenePlan()


def _concept(rng: np.random.Generator, index: int) -> ScenePlan:
    plan, concept = _multi(rng, index), index % len(TEXTURES)
    others = rng.permutation([t for t in range(len(TEXTURES)) if t != concept])[: len(plan.classes) - 1]
    return ScenePlan(plan.classes, (concept, *map(int, others)), concept=concept)


def _shortcut(rng: np.random.Generator, index: int) -> ScenePlan:
    plan = _draw(rng, 1)
    other = int(rng.integers(len(CLASSES) - 1))
    conflicting = other + (other >= plan.classes[0])
    return ScenePlan(plan.classes, plan.textures, mark_class=conflicting if index % 2 else plan.classes[0])


def _absent(rng: np.random.Generator, index: int) -> ScenePlan:
    others = _draw(rng, index % 2, without=(ABSENT,))
    return ScenePlan((ABSENT, *others.classes), (int(rng.integers(len(TEXTURES))), *others.textures))


def _mixture(rng: np.random.Generator, without: tuple[int, ...] = ()) -> ScenePlan:
    return _draw(rng, int(rng.choice([0, 1, 2, 3], p=[0.06, 0.34, 0.3, 0.3])), without)


def _train(rng: np.random.Generator, index: int) -> ScenePlan:
    return _mixture(rng)


def _train_absent(rng: np.random.Generator, index: int) -> ScenePlan:
    return _mixture(rng, without=(ABSENT,))


def _train_shortcut(rng: np.random.Generator, index: int) -> ScenePlan:
    plan = _draw(rng, 1)
    return ScenePlan(plan.classes, plan.textures, mark_class=plan.classes[0])


@dataclass(frozen=True)
class Split:
    """Content of a split.

    Attributes:
        plan: Draws the plan of a sample from its random numbers and its index.
        number: The split's own number in every seed.
        length: How many samples it has by default.
        question: What it asks of a map.
    """

    plan: Callable[[np.random.Generator, int], ScenePlan]
    number: int
    length: int
    question: str


SPLITS: dict[str, Split] = {
    "single": Split(_single, 0, 1000, "is the map on the object?"),
    "multi": Split(_multi, 1, 1000, "is the map on the object of the class that was asked for, and on no other?"),
    "concept": Split(_concept, 2, 1000, "does a texture's map land on the one object with it, whatever its class?"),
    "shortcut": Split(
        _shortcut,
        3,
        1000,
        "does the map confess the corner mark? It agrees with the object at even "
        "indices and contradicts it at odd ones",
    ),
    "absent": Split(
        _absent,
        4,
        1000,
        "what does a map show for a class never seen in training? Alone at even "
        "indices, beside a known object at odd ones",
    ),
    "blank": Split(_blank, 5, 1000, "does the map stay quiet where there is nothing?"),
    "train": Split(_train, 6, 40000, "training: none to three objects of different classes"),
    "train_shortcut": Split(_train_shortcut, 7, 40000, "training: one object, and its class's mark in a corner"),
    "train_absent": Split(_train_absent, 8, 40000, f"training: as `train`, without any {CLASSES[ABSENT]}"),
}


@dataset(
    name="scenes",
    title="Scenes",
    summary="Synthetic images of 12 shape classes in 5 textures with exact masks, one question for each split.",
    splits=tuple(SPLITS),
    layout=(),
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    source="generated by seewhy, bit for bit the same everywhere",
    citation="seewhy",
)
class Scenes(Dataset):
    """A split of the synthetic world.

    Args:
        split: One of `SPLITS`.
        seed: A world of its own per seed; splits of one seed share nothing, whatever their sizes.
        n: How many samples; by default the split's own length. Sample i does not depend on it.
        size: Side of the images in pixels, a multiple of 16 from 48 up.

    Raises:
        UnknownNameError: When there is no such split.
        OptionError: When the seed or n is negative, or the size is out of range.
    """

    class_names = classes = CLASSES
    texture_names = TEXTURES

    def __init__(self, split: str = "single", seed: int = 0, n: int | None = None, size: int = 96) -> None:
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        if seed < 0 or (n is not None and n < 0):
            raise OptionError(f"seed {seed} and n {n} must not be negative; try seed=0")
        if size < 48 or size % 16:
            raise OptionError(f"size {size} is not a multiple of 16 from 48 up; try size=96")
        self.split, self.seed, self.size = split, seed, size
        self.n = SPLITS[split].length if n is None else n

    def __len__(self) -> int:
        return self.n

    @property
    def ids(self) -> Sequence[str]:
        """Split, seed, index and size of each sample."""
        return self._ids

    @cached_property
    def _ids(self) -> tuple[str, ...]:
        return tuple(map(self._id, range(self.n)))

    def _id(self, index: int) -> str:
        return f"{self.split}-{self.seed}-{index}-{self.size}"

    def read(self, index: int) -> Scene:
        """Draw a sample."""
        rng, plan, i = self._begin(index)
        image, masks, mark = compose(rng, plan, self.size)
        return Scene(
            self._id(i),
            image,
            plan.classes,
            masks=masks,
            boxes=masks_to_boxes(masks),
            about=_about(plan),
            textures=plan.textures,
            mark=mark,
            mark_class=plan.mark_class,
            concept=plan.concept,
        )

    def plan(self, index: int) -> ScenePlan:
        """Return what sample `index` holds, without drawing it."""
        return self._begin(index)[1]

    def _begin(self, index: int) -> tuple[np.random.Generator, ScenePlan, int]:
        i = operator.index(index)
        i = i + self.n if i < 0 else i
        if not 0 <= i < self.n:
            raise IndexError(f"there is no scene {index} in {self.n}; use 0 to {self.n - 1}")
        split = SPLITS[self.split]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, split.number, i])))
        return rng, split.plan(rng, i), i
