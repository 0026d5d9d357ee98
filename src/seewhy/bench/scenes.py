"""Does a map move from object to object? Every method on scenes with two or three objects of different classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from seewhy.core.maps import resize
from seewhy.core.progress import Progress, no_progress
from seewhy.data.scenes import Scenes
from seewhy.errors import SeewhyError
from seewhy.methods import METHODS, Method
from seewhy.methods.factory import QUICK, quick_options
from seewhy.models.adapter import VisionModel
from seewhy.targets import Target, concept

EXPENSIVE = 10  # forward passes per map of the whole model; methods from here on see a fifth of the scenes


@dataclass(frozen=True)
class Row:
    """One method on one model.

    Attributes:
        model: Name of the model.
        method: Name of the method.
        title: Title of the method.
        class_specific: Whether the map depends on the target.
        maps: Number of maps.
        right: Share of maps whose maximum lies in the object of the target's class.
        wrong: Share of maps whose maximum lies in another object.
        mass_right: Mean share of the positive values that lies in the right object.
        mass_wrong: Mean share of the positive values that lies in other objects.
        margin: Half the width of the 95 % interval of `right`.
        passes: Forward passes per map.
        error: Why there is no result.
    """

    model: str
    method: str
    title: str
    class_specific: bool
    maps: int
    right: float
    wrong: float
    mass_right: float
    mass_wrong: float
    margin: float
    passes: int
    error: str = ""

    @property
    def discriminates(self) -> bool:
        """Whether maxima lie in the right object more often than in a wrong one, beyond both margins."""
        return self.right - self.margin > self.wrong + self.margin


def table(
    model: VisionModel,
    n: int = 300,
    methods: Sequence[str] | None = None,
    *,
    seed: int = 0,
    thin: bool = True,
    progress: Progress = no_progress,
) -> list[Row]:
    """Score every method that can serve the model on the first `n` scenes of `multi`, best first, and a random map.

    One map for each object present, for that object's class; bilinear to the image's size. A concept method gets the
    concept "like these 20 images of the class" instead of the class. With `thin`, methods of `EXPENSIVE` or more
    passes see a fifth of the scenes.
    """
    scenes = Scenes("multi", seed=seed)
    names = methods or [m.card.name for m in METHODS.values() if not m.why_incompatible(model)]
    rows = [_random_row(model, scenes, n)]
    for name in progress(names, len(names), f"{model.name} on {n} scenes"):
        rows.append(_row(model, METHODS[name], scenes, n, thin))
    return sorted(rows, key=lambda row: (bool(row.error), -row.right))


def _row(model: VisionModel, cls: type[Method], scenes: Scenes, n: int, thin: bool) -> Row:
    about: dict[str, Any] = {
        "model": model.name,
        "method": cls.card.name,
        "title": cls.card.title,
        "class_specific": cls.card.class_specific,
    }
    try:
        method = cls(model, **quick_options(cls))
        passes = method.cost.forward
        count = max(1, n // 5) if thin and method.cost.complete_forwards >= EXPENSIVE else n
        targets = _concepts(model) if cls.card.target_kind == "concept" else None
        scores = [s for i in range(0, count, 8) for s in _scores(method, scenes, range(i, min(i + 8, count)), targets)]
    except SeewhyError as error:
        return Row(**about, maps=0, right=0, wrong=0, mass_right=0, mass_wrong=0, margin=0, passes=0, error=str(error))
    return _mean(about, scores, passes)


def _mean(about: dict[str, Any], scores: list[tuple[float, float, float, float]], passes: int) -> Row:
    right, wrong, mass_right, mass_wrong = np.mean(scores, axis=0).tolist()
    margin = 1.96 * (right * (1 - right) / len(scores)) ** 0.5
    return Row(
        **about,
        maps=len(scores),
        right=right,
        wrong=wrong,
        mass_right=mass_right,
        mass_wrong=mass_wrong,
        margin=margin,
        passes=passes,
    )


def _scores(
    method: Method, scenes: Scenes, indices: Iterable[int], concepts: list[Target] | None
) -> Iterator[tuple[float, float, float, float]]:
    items = [scenes[i] for i in indices]
    pairs = [(i, k) for i, item in enumerate(items) for k in range(len(item.labels))]
    x = method.model.preprocess_batch([item.image for item in items])
    if not method.card.class_specific:
        maps = method(x, image_index=[i for i, _ in pairs])
    else:
        labels = [int(items[i].labels[k]) for i, k in pairs]
        targets = labels if concepts is None else [concepts[label] for label in labels]
        maps = method(x, targets, image_index=[i for i, _ in pairs])
    for attribution, (i, k) in zip(maps.cpu(), pairs, strict=True):
        yield score(attribution, torch.from_numpy(items[i].masks), k)


def score(
    attribution: Float[Tensor, "r c"], masks: Bool[Tensor, "objects rows cols"], k: int
) -> tuple[float, float, float, float]:
    """Return whether the maximum lies in the right or a wrong object, and the shares of the positive values there.

    A constant map scores nothing. Ties go to the first pixel, row by row.
    """
    full = resize(attribution, (masks.shape[1], masks.shape[2]))
    right, wrong = masks[k], masks[[j for j in range(len(masks)) if j != k]].any(0)
    if full.max() == full.min():
        return 0.0, 0.0, 0.0, 0.0
    top = full.flatten().argmax()
    positive = full.clamp(min=0)
    total = positive.sum().clamp(min=1e-30)
    return (
        float(right.flatten()[top]),
        float(wrong.flatten()[top]),
        float(positive[right].sum() / total),
        float(positive[wrong].sum() / total),
    )


def _random_row(model: VisionModel, scenes: Scenes, n: int) -> Row:
    draws = np.random.default_rng(0)
    scores = []
    for i in range(n):
        masks = torch.from_numpy(scenes[i].masks)
        scores += [score(torch.from_numpy(draws.normal(size=(12, 12))).float(), masks, k) for k in range(len(masks))]
    about = {"model": model.name, "method": "random", "title": "random map", "class_specific": False}
    return _mean(about, scores, 0)


def _concepts(model: VisionModel, each: int = 20) -> list[Target]:
    """Return for each class similarity to the mean embedding of its first images among the single scenes."""
    single = Scenes("single", seed=0)
    examples: dict[int, list[Image.Image]] = {c: [] for c in range(len(model.class_names or ()))}
    for i in range(len(single)):
        label = int(single[i].labels[0])
        if len(examples[label]) < each:
            examples[label].append(single[i].image)
        if all(len(images) == each for images in examples.values()):
            break
    return [concept(model, images, name=f"like {len(images)} examples") for images in examples.values()]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for the documentation, which names methods whose maximum does not prefer the right object."""
    lines = [
        "| method | max in right object | max in wrong object | positive mass right | … wrong | maps | passes | "
        "tells classes apart |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.error:
            lines.append(f"| {row.title} | {row.error} | | | | | | |")
            continue
        verdict = "yes" if row.discriminates else "no"
        promise = " (label-free)" if not row.class_specific else ""
        lines.append(
            f"| {row.title} | {row.right:.1%} ± {row.margin:.1%} | {row.wrong:.1%} | {row.mass_right:.1%} | "
            f"{row.mass_wrong:.1%} | {row.maps} | {row.passes} | {verdict}{promise} |"
        )
    broken = [row.title for row in rows if row.class_specific and not row.error and not row.discriminates]
    if broken:
        lines += ["", f"Asked for a class, and yet not discriminative here: {', '.join(broken)}."]
    return "\n".join(lines)


def write(tables: dict[str, list[Row]], n: int, path: Path, thin: bool = True) -> Path:
    """Write the documentation page with a table for each model, and return its path."""
    parts = [
        "# Which methods tell objects apart?",
        "",
        f"Made by `seewhy bench scenes --n {n}{'' if thin else ' --no-thin'} -o {path}`. "
        f"The first {n} scenes of the split `multi` (two or three objects of different classes); one map for each "
        "object, for its own class, bilinear to the image. "
        + (f"Methods of {EXPENSIVE} or more forward passes see a fifth of the scenes. " if thin else "")
        + "Repetitions here: "
        + ", ".join(f"{k}={v}" for k, v in QUICK.items())
        + ".",
    ]
    for name, rows in tables.items():
        parts += ["", f"## {name}", "", markdown(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n", "utf-8")
    return path
