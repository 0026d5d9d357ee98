"""The CDAM paper's study of lung nodules (§5): malignancy and eight biomarkers, and where CDAM sees each of them.

On LIDC it gives the paper's figures; on synthetic nodules the pixels that a number was made of are known, and tables
say whether the maps find them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from torch.nn import functional as F

from seewhy.core.io import atomic_file, json_default
from seewhy.core.progress import Progress, no_progress
from seewhy.data.base import Dataset, Sample
from seewhy.data.lidc_marks import BIOMARKERS
from seewhy.data.nodules import Nodules
from seewhy.errors import DataError
from seewhy.explainer import explain_each
from seewhy.explanation import Explanation
from seewhy.models.adapter import VisionModel
from seewhy.training.fine_tuning import SHARES, FineTuned, FineTuneSettings, finetune
from seewhy.training.scores import roc_auc
from seewhy.viz.figures import Cell, grid

SHOWN_IN = {
    "calcification": "grains",
    "sphericity": "edge",
    "margin": "edge",
    "lobulation": "edge",
    "spiculation": "spicules",
    "texture": "body",
    "diameter": "body",
}
"""Where a biomarker shows, by its definition; subtlety and malignancy have no place of their own."""

SMALL = FineTuneSettings(
    blocks=None,
    dropout=0.0,
    epochs=12,
    batch_size=64,
    lr=5e-4,
    schedule="cosine",
    optimizer="adamw",
    weight_decay=0.05,
    balance=None,
    augment=("flip", "turn"),
    patience=None,
    precision="bf16",
)
"""For a small transformer that has seen no lungs, as `scenes_vit`: all weights, in minutes on a CPU."""

MALIGNANT = "malignancy"
ATTENTION = "attention"
NODULE = "nodule"
MAPS = (*BIOMARKERS, MALIGNANT, ATTENTION)
COLORS = {"body": (90, 110, 255), "edge": (255, 210, 0), "spicules": (255, 70, 70), "grains": (60, 220, 120)}
_BAND = 3  # pixels on each side of a mask's outline that are its edge, where nobody drew parts
_FEWEST = 20  # pixels: smaller parts have no place that a map of patches could find
_RESAMPLES = 2000


@dataclass(frozen=True)
class NoduleStudy:
    """What the study found.

    Attributes:
        folder: With `study.md`, `study.json`, `figure.png`, and the two models in `biomarkers` and `malignancy`.
        biomarkers: The model of the eight biomarkers.
        malignancy: The model of malignancy.
        places: For each map, the area under the ROC curve of |map|: how often a pixel of the nodule has more of it than
            one of the background, and for each part, how often one of its pixels has more than one of the nodule's
            other pixels; mean and 95 % interval over nodules.
        signs: For each map and part, the mean of the map in units of its largest value; likewise.
        gains: For each biomarker with a place, how much more its own map finds it than those of the other outputs.
    """

    folder: Path
    biomarkers: FineTuned
    malignancy: FineTuned
    places: dict[str, dict[str, tuple[float, float, float]]]
    signs: dict[str, dict[str, tuple[float, float, float]]]
    gains: dict[str, tuple[float, float, float]]


def lidc_study(
    model: VisionModel,
    data: Dataset,
    *,
    out: str | Path,
    settings: FineTuneSettings | None = None,
    shares: Sequence[float] = SHARES,
    nodules: int | None = None,
    rows: int = 4,
    base: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress = no_progress,
) -> NoduleStudy:
    """Fine-tune both models, explain the test nodules, and write tables and a figure.

    Args:
        model: The backbone, a ViT.
        data: `LIDC` or `Nodules`.
        out: The folder.
        settings: Of the fine-tuning; default: the paper's.
        shares: Of training, validation and test.
        nodules: How many test nodules are measured; None: all.
        rows: Of the figure.
        base: See `finetune`.
        resume: Whether to continue a run in `out`.
        progress: Reports the nodules.

    Raises:
        DataError: There are no test nodules.
        SeewhyError: As `finetune`.
    """
    folder = Path(out).expanduser()
    common: dict[str, Any] = {"settings": settings, "shares": shares, "base": base, "resume": resume}
    shows = progress is not no_progress
    numbers = finetune(model, data, out=folder / "biomarkers", quantities=BIOMARKERS, progress=shows, **common)
    classes = finetune(model, data, out=folder / MALIGNANT, progress=shows, **common)
    # the biomarkers are split by malignancy too, so that the test nodules are the same where all samples have both
    chosen = sorted(set(numbers.test) & set(classes.test))
    chosen = chosen[:nodules]
    if not chosen:
        raise DataError("no nodule is left to test on; use more nodules, or a larger share for the test")
    samples = [data[i] for i in chosen]
    parts = [parts_of(data, i, sample) for i, sample in zip(chosen, samples, strict=True)]
    maps = list(progress(_maps(numbers.model, classes.model, samples), len(samples), "nodules"))
    study = NoduleStudy(folder, numbers, classes, *_measure(maps, parts))
    _write(study, len(samples), isinstance(data, Nodules) or hasattr(data, "parts"))
    _figure(maps[:rows], samples[:rows], parts[:rows]).save(folder / "figure.png")
    return study


def _maps(numbers: VisionModel, classes: VisionModel, samples: Sequence[Sample]) -> Any:
    """Yield the maps of each nodule by name."""
    images = [sample.image for sample in samples]
    every = explain_each(numbers, images, ["attention_map", "cdam"], list(BIOMARKERS))
    malign = explain_each(classes, images, ["cdam"], [classes.class_names[-1] if classes.class_names else 0])
    for mine, theirs in zip(every, malign, strict=True):
        for outcome in (mine, theirs):
            if outcome.error is not None:
                raise outcome.error
        found = {name: row[1] for name, row in zip(BIOMARKERS, mine.explanations, strict=True)}
        yield {**found, MALIGNANT: theirs.explanations[0][0], ATTENTION: mine.explanations[0][0]}


def parts_of(data: Dataset, index: int, sample: Sample) -> dict[str, Bool[ndarray, "rows cols"]]:
    """Return the parts of a nodule's image: as drawn, or else body, edge and background by its mask.

    Args:
        data: The dataset.
        index: Of the sample.
        sample: The sample.

    Raises:
        DataError: It has no mask.
    """
    if isinstance(data, Nodules):
        return data.parts(index)
    if sample.masks is None:
        raise DataError(f"{sample.id} has no mask, so its parts are not known; use nodules with masks")
    mask = torch.from_numpy(sample.masks.any(0)).float()[None, None]
    window = 2 * _BAND + 1
    grown = F.max_pool2d(mask, window, 1, _BAND)[0, 0].numpy() > 0
    shrunk = -F.max_pool2d(-mask, window, 1, _BAND)[0, 0].numpy() > 0
    return {"body": shrunk, "edge": grown & ~shrunk, "background": ~grown}


# ── measuring ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def interval(values: Float[ndarray, " n"]) -> tuple[float, float, float]:
    """Return the mean, and the ends of its 95 % percentile bootstrap interval."""
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    rows = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def _measure(maps: Sequence[Mapping[str, Explanation]], parts: Sequence[Mapping[str, Bool[ndarray, "_ _"]]]) -> Any:
    names = [NODULE, *dict.fromkeys(name for found in parts for name in found if name != "background")]
    places: dict[str, dict[str, list[float]]] = {m: {p: [] for p in names} for m in MAPS}
    signs: dict[str, dict[str, list[float]]] = {m: {p: [] for p in names} for m in MAPS}
    for shown, found in zip(maps, parts, strict=True):
        values = {m: shown[m].on_image(mode="nearest").double().numpy() for m in MAPS}
        nodule = ~found["background"]
        for part in names:
            mask, among = (nodule, np.ones_like(nodule)) if part == NODULE else (found[part], nodule)
            if mask.sum() < _FEWEST:
                continue
            for m, value in values.items():
                places[m][part].append(roc_auc(abs(value[among]), mask[among]))
                signs[m][part].append(float(value[mask].mean() / max(abs(value).max(), 1e-12)))
    gains = {}
    for name, part in SHOWN_IN.items():
        if part in names:
            others = np.mean([places[m][part] for m in (*BIOMARKERS, MALIGNANT) if m != name], 0)
            gains[name] = interval(np.array(places[name][part]) - others)
    return (
        {m: {p: interval(np.array(v)) for p, v in row.items()} for m, row in places.items()},
        {m: {p: interval(np.array(v)) for p, v in row.items()} for m, row in signs.items()},
        gains,
    )


# ── telling ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _write(study: NoduleStudy, tested: int, known: bool) -> None:
    figures, malign = study.biomarkers.figures, study.malignancy.figures
    content = {
        "tested": tested,
        "biomarkers": figures,
        MALIGNANT: malign,
        "places": study.places,
        "signs": study.signs,
        "gains": study.gains,
        "shown_in": SHOWN_IN,
    }
    parts = list(study.places[ATTENTION])
    lines = [
        "# Lung nodules: malignancy, eight biomarkers, and where CDAM sees them",
        "",
        f"Malignancy: test accuracy {malign['test accuracy']:.3f}, AUC {malign['test auc']:.3f}. "
        f"Biomarkers: test MSE {figures['test mse']:.3f} in units of their spread. {tested} test nodules explained.",
        "",
        "| biomarker | test MSE | R² |"
        + (" shows in | own map finds it | attention finds it | own − others |" * known),
        "|---|---|---|" + "---|---|---|---|" * known,
    ]
    for name in BIOMARKERS:
        line = f"| {name} | {figures[f'test mse {name}']:.3f} | {figures[f'test r2 {name}']:.2f} |"
        part = SHOWN_IN.get(name)
        if known and part in parts:
            own, attention = study.places[name][part], study.places[ATTENTION][part]
            line += f" {part} | {_cell(own)} | {_cell(attention)} | {_cell(study.gains[name], True)} |"
        else:
            line += " — | | | |" * known
        lines.append(line)
    lines += [
        "",
        "How often a pixel of the nodule has more |map| than one of the background, and then, within the nodule, how "
        "often a pixel of a part has more than one of the other parts (area under the ROC curve, one half by chance; "
        "mean and 95 % bootstrap interval over nodules with at least 20 such pixels):",
        "",
        *_table(study.places, parts, signed=False),
        "",
        "Mean of the map within the part, in units of its largest absolute value:",
        "",
        *_table(study.signs, parts, signed=True),
    ]
    with atomic_file(study.folder / "study.md") as draft:
        draft.write_text("\n".join(lines) + "\n", "utf-8")
    with atomic_file(study.folder / "study.json") as draft:
        draft.write_text(json.dumps(content, indent=1, default=json_default) + "\n", "utf-8")


def _table(values: Mapping[str, Mapping[str, tuple[float, float, float]]], parts: Sequence[str], signed: bool) -> Any:
    yield f"| map | {' | '.join(parts)} |"
    yield "|---|" + "---|" * len(parts)
    for name, row in values.items():
        title = name if name == ATTENTION else f"CDAM, {name}"
        yield f"| {title} | {' | '.join(_cell(row[part], signed) for part in parts)} |"


def _cell(value: tuple[float, float, float], signed: bool = False) -> str:
    mean, low, high = value
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" if signed else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _figure(
    maps: Sequence[Mapping[str, Explanation]],
    samples: Sequence[Sample],
    parts: Sequence[Mapping[str, Bool[ndarray, "_ _"]]],
) -> Image.Image:
    """Draw nodules as rows: the image, its parts, the attention map, CDAM of each output."""
    order = (ATTENTION, *BIOMARKERS, MALIGNANT)
    cells: list[list[Cell]] = []
    captions = []
    for shown, sample, found in zip(maps, samples, parts, strict=True):
        drawn = np.asarray(sample.image).astype(float)
        for name, color in COLORS.items():
            if name in found:
                drawn[found[name]] = 0.5 * drawn[found[name]] + 0.5 * np.array(color)
        cells.append([sample.image, Image.fromarray(drawn.astype(np.uint8)), *(shown[name] for name in order)])
        truth = {**sample.about["biomarkers"], MALIGNANT: sample.about[MALIGNANT]}
        captions.append(["", "", "", *(f"{truth[name]:.1f}" for name in order[1:])])
    titles = ["image", "parts", *order]
    return grid(
        cells, col_titles=titles, title="CDAM of each output; below it the true value", captions=captions, cell=144
    )
