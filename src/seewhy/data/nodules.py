"""Synthetic nodules in CT-like images: the eight biomarkers and the pixels that show each of them are known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from seewhy.core.boxes import masks_to_boxes
from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Sample, dataset
from seewhy.data.lidc import UNSURE, hounsfield_to_gray
from seewhy.data.lidc_marks import BIOMARKERS
from seewhy.errors import OptionError

SIDE = 96
MM_PER_PIXEL = 0.5
PARTS = ("body", "edge", "spicules", "grains", "background")
"""Parts of a nodule's image; each pixel belongs to one of them."""

LUNG, SOLID, GROUND_GLASS, CALCIUM = -850.0, 40.0, -420.0, 700.0  # Hounsfield units
_BAND = 3.0  # pixels on each side of the outline that are its edge
_WINDOW = (-600.0, 1500.0)  # level and width, the usual one for lungs

Map = Float[ndarray, "side side"]


@dataclass(frozen=True)
class NodulePlan:
    """What is drawn; each of the biomarkers can be read off it.

    Attributes:
        diameter: The long axis in pixels.
        ratio: The short axis as a share of it.
        turn: Direction of the long axis, radians.
        waves: Bulges around the outline.
        bulge: Height of a bulge, as a share of the radius.
        phase: Where the first bulge is, radians.
        blur: Width over which the edge fades, in pixels.
        spicules: Direction (radians), length and half width at the root (pixels) of each.
        grains: Row, column (pixels from the center) and radius of each grain of calcium.
        solid: 1 for solid tissue, 0 for ground glass.
        noise: Standard deviation, Hounsfield units.
        center: Row and column of the nodule.
    """

    diameter: float
    ratio: float
    turn: float
    waves: int
    bulge: float
    phase: float
    blur: float
    spicules: tuple[tuple[float, float, float], ...]
    grains: tuple[tuple[float, float, float], ...]
    solid: float
    noise: float
    center: tuple[float, float]

    @property
    def biomarkers(self) -> dict[str, float]:
        """The eight of LIDC on its scales: ratings from 1 to 5 (calcification to 6: none), the diameter in mm."""
        values = {
            "subtlety": 1 + 4 * _share(self.noise, 110, 20),
            "calcification": 6 - 5 * len(self.grains) / MOST_GRAINS,
            "sphericity": 1 + 4 * _share(self.ratio, 0.55, 1),
            "margin": 1 + 4 * _share(self.blur, 6, 0.5),
            "lobulation": 1 + 4 * _share(self.bulge, 0, 0.22),
            "spiculation": 1 + 4 * len(self.spicules) / MOST_SPICULES,
            "texture": 1 + 4 * self.solid,
            "diameter": self.diameter * MM_PER_PIXEL,
        }
        return {name: round(values[name], 4) for name in BIOMARKERS}


MOST_SPICULES, MOST_GRAINS = 12, 6


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def draw_plan(rng: np.random.Generator) -> NodulePlan:
    """Draw a nodule; the biomarkers are independent of each other, so none can stand in for another."""
    diameter, ratio = rng.uniform(20, 50), rng.uniform(0.55, 1)
    spicules = int(rng.integers(0, MOST_SPICULES + 1))
    start = rng.uniform(0, 2 * np.pi)
    directions = start + 2 * np.pi * (np.arange(spicules) + rng.uniform(-0.3, 0.3, spicules)) / max(1, spicules)
    grains = []
    for _ in range(int(rng.integers(0, MOST_GRAINS + 1))):
        angle, distance = rng.uniform(0, 2 * np.pi), 0.6 * np.sqrt(rng.random())
        reach = distance * diameter * ratio / 2
        grains.append((reach * np.sin(angle), reach * np.cos(angle), rng.uniform(1.5, 2.5)))
    return NodulePlan(
        diameter=diameter,
        ratio=ratio,
        turn=rng.uniform(0, np.pi),
        waves=int(rng.integers(4, 7)),
        bulge=rng.uniform(0, 0.22),
        phase=rng.uniform(0, 2 * np.pi),
        blur=rng.uniform(0.5, 6),
        spicules=tuple((float(d), rng.uniform(8, 15), rng.uniform(1.2, 1.8)) for d in directions),
        grains=tuple(grains),
        solid=rng.uniform(0, 1),
        noise=rng.uniform(20, 110),
        center=(SIDE / 2 + rng.uniform(-6, 6), SIDE / 2 + rng.uniform(-6, 6)),
    )


def malignancy_of(biomarkers: dict[str, float]) -> float:
    """Return the malignancy, from 1 to 5: spicules, lobules and size speak for it, calcium against it."""
    signs = {"spiculation": 3.0, "lobulation": 3.0, "diameter": 17.5, "calcification": 3.5}
    spans = {"spiculation": 2.0, "lobulation": 2.0, "diameter": 7.5, "calcification": 2.5}
    score = sum((biomarkers[name] - middle) / spans[name] for name, middle in signs.items())
    return float(np.clip(3 + score / 1.5, 1, 5))


@dataset(
    name="nodules",
    title="Synthetic nodules",
    summary="CT-like crops of one nodule each, with 8 biomarkers that are true by construction, and its parts.",
    splits=("all",),
    layout=(),
    has={Requirement.OBJECTS, Requirement.BOXES, Requirement.LABEL},
    source="drawn by seewhy",
    citation="Biomarkers as in Armato et al., LIDC-IDRI, Med. Phys. 38, 2011",
)
class Nodules(Dataset):
    """Nodules of known shape before lung, vessels and noise, 96 × 96 pixels of 0.5 mm, in a lung window.

    A pure function of (seed, index). `about` is as LIDC's: `malignancy` (mean below 3 benign, above malignant),
    `biomarkers`, `diameter_mm`. The mask is the nodule with its spicules; `parts` has the pixels of body, edge,
    spicules and grains of calcium. None of this is anatomy: it asks whether a map finds what a number was made of.

    Args:
        n: How many.
        seed: Of the drawing.
        split: There is one, `all`.

    Raises:
        OptionError: When there is no such split, or fewer than one is asked for.
    """

    def __init__(self, n: int = 1000, seed: int = 0, split: str = "all") -> None:
        if split != "all":
            raise OptionError(f"unknown split {split!r}; there is one, 'all'")
        if n < 1:
            raise OptionError(f"n={n} must be at least 1")
        self.split, self.seed = split, seed
        self.class_names = ("benign", "malignant")
        self._ids = tuple(f"nodule-{seed}-{i:05d}" for i in range(n))

    @property
    def ids(self) -> Sequence[str]:
        """Seed and number of each."""
        return self._ids

    def plan(self, index: int) -> NodulePlan:
        """Return what is drawn."""
        return draw_plan(self._rng(index, 0))

    def parts(self, index: int) -> dict[str, Bool[ndarray, "side side"]]:
        """Return the pixels of each of `PARTS`; together they are the image, and no two overlap."""
        return part_masks(self.plan(index))

    def read(self, index: int) -> Sample:
        """Draw a sample."""
        plan = self.plan(index)
        values = _scan(plan, self._rng(index, 1))
        gray = hounsfield_to_gray(values, *_WINDOW)
        parts = part_masks(plan)
        mask = ~parts["background"]
        biomarkers = plan.biomarkers
        malignancy = malignancy_of(biomarkers)
        about: dict[str, Any] = {"malignancy": malignancy, "biomarkers": biomarkers}
        about["diameter_mm"] = biomarkers["diameter"]
        image = Image.fromarray(gray).convert("RGB")
        return Sample(
            self._ids[index],
            image,
            (int(malignancy > UNSURE),),
            mask[None],
            masks_to_boxes(mask[None]),
            about=about,
        )

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, index, stream])


# ── drawing ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def part_masks(plan: NodulePlan) -> dict[str, Bool[ndarray, "side side"]]:
    """Return the pixels of each of `PARTS`.

    The edge is where the distance to the outline is at most 3 pixels; a spicule belongs to it as far as that.
    """
    beyond, spicules, grains = _beyond(plan), _spicules(plan) > 0.5, _grains(plan) > 0.5
    masks = {
        "grains": grains & (beyond < 0),
        "spicules": spicules & (beyond > _BAND),
        "edge": abs(beyond) <= _BAND,
        "body": beyond < -_BAND,
    }
    masks["edge"] &= ~masks["grains"]
    masks["body"] &= ~masks["grains"]
    masks["background"] = ~(masks["grains"] | masks["spicules"] | masks["edge"] | masks["body"])
    return {name: masks[name] for name in PARTS}


def _polar(plan: NodulePlan) -> tuple[Map, Map]:
    rows, cols = np.mgrid[:SIDE, :SIDE] + 0.5
    rows, cols = rows - plan.center[0], cols - plan.center[1]
    return np.hypot(rows, cols), np.arctan2(rows, cols)


def _radius(plan: NodulePlan, angle: Any) -> Any:
    """Return the distance from center to outline in a direction: an ellipse with bulges."""
    a, b, t = plan.diameter / 2, plan.ratio * plan.diameter / 2, angle - plan.turn
    ellipse = a * b / np.sqrt((b * np.cos(t)) ** 2 + (a * np.sin(t)) ** 2)
    # bulges go inwards only, so that the diameter stays the long axis
    return ellipse * (1 - plan.bulge * (1 - np.cos(plan.waves * angle + plan.phase)) / 2)


def _beyond(plan: NodulePlan) -> Map:
    """Return how far a pixel lies outside of the outline along its ray, negative inside."""
    distance, angle = _polar(plan)
    return distance - _radius(plan, angle)


def _spicules(plan: NodulePlan) -> Map:
    """Return how much of a pixel is spicule: lines from the outline outwards that become thinner."""
    distance, angle = _polar(plan)
    cover = np.zeros((SIDE, SIDE))
    for direction, length, width in plan.spicules:
        along = distance * np.cos(angle - direction) - _radius(plan, direction)
        across = abs(distance * np.sin(angle - direction))
        half = width * (1 - 0.7 * (along / length).clip(0, 1))
        inside = (along > -4) & (along < length)
        cover = np.maximum(cover, np.where(inside, (half - across + 0.5).clip(0, 1), 0))
    return cover


def _grains(plan: NodulePlan) -> Map:
    rows, cols = np.mgrid[:SIDE, :SIDE] + 0.5
    cover = np.zeros((SIDE, SIDE))
    for row, col, radius in plan.grains:
        distance = np.hypot(rows - plan.center[0] - row, cols - plan.center[1] - col)
        cover = np.maximum(cover, (radius - distance + 0.5).clip(0, 1))
    return cover


def _scan(plan: NodulePlan, rng: np.random.Generator) -> Map:
    """Return Hounsfield units: lung, vessels, the nodule in front of them, noise of a reconstruction."""
    values = LUNG + 40 * _smooth(rng.standard_normal((SIDE, SIDE)), 12)
    for _ in range(int(rng.integers(1, 4))):
        cover = _vessel(rng)
        values = values + cover * (rng.uniform(-300, 0) - values)
    inside = 1 / (1 + np.exp(_beyond(plan) / (plan.blur / 4)))  # from 12 to 88 % over the width of the blur
    tissue = GROUND_GLASS + plan.solid * (SOLID - GROUND_GLASS)
    values = values + inside * (tissue - values)
    values = values + _spicules(plan) * (1 - inside) * (np.maximum(tissue, -200) - values)
    values = values + _grains(plan) * inside * (CALCIUM - values)
    return _smooth(values, 0.6, keep=True) + plan.noise * _smooth(rng.standard_normal((SIDE, SIDE)), 0.8)


def _vessel(rng: np.random.Generator) -> Map:
    """Return how much of a pixel is vessel: a bent tube through the image."""
    rows, cols = np.mgrid[:SIDE, :SIDE] + 0.5
    angle, offset, bend = rng.uniform(0, np.pi), rng.uniform(-45, 45), rng.uniform(-0.006, 0.006)
    x, y = cols - SIDE / 2, rows - SIDE / 2
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (rng.uniform(1.5, 3.0) - abs(across - offset - bend * along**2) + 0.5).clip(0, 1)


def _smooth(values: Map, sigma: float, keep: bool = False) -> Map:
    """Return values after a Gaussian filter with wrapped ends, with unit spread unless `keep`."""
    frequencies = np.fft.fftfreq(SIDE)
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (frequencies[:, None] ** 2 + frequencies[None] ** 2))
    filtered = np.fft.ifft2(np.fft.fft2(values) * gain).real
    return filtered if keep else filtered / filtered.std()
