"""From a finished run to what ships: half-precision weights, the figures measured on them, and the card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from seewhy.core.io import atomic_file
from seewhy.core.tensor_files import read_tensors
from seewhy.data.scenes import CLASSES
from seewhy.errors import WeightsError
from seewhy.models.reference.scenes import MEAN, STD, build
from seewhy.training.card import write_card
from seewhy.training.evaluate import evaluate
from seewhy.training.recipes import RECIPES, Recipe
from seewhy.training.scenes import STUDENT
from seewhy.training.weights import load_half, save_half

_SPLITS = {
    "train": ("single", "multi", "blank"),
    "train_absent": ("single", "multi", "absent", "blank"),
    "train_shortcut": ("shortcut", "single"),
}
"""The splits that a model is measured on, by the split that it was trained on."""


def ship(name: str, run: str | Path, weights: str | Path, n: int = 1000, note: str = "") -> dict[str, Any]:
    """Put the finished run's model into a folder as NAME.safetensors and NAME.json, and renew the card.

    The figures are measured on the half-precision weights as they ship.

    Args:
        name: The recipe that was trained.
        run: The run's folder.
        weights: The folder that gets the files.
        n: Scenes of each split to measure on.
        note: A remark for the card.

    Returns:
        What NAME.json holds.

    Raises:
        WeightsError: When the run has not come to its last step.
    """
    path = Path(run) / STUDENT
    if not path.exists():
        raise WeightsError(f"{run} has not come to its last step; finish it with --resume")
    weights_of_run, state = read_tensors(path)
    recipe = Recipe(**state["recipe"])
    model = build(recipe.architecture, **recipe.options)
    model.load_state_dict(weights_of_run)
    folder = Path(weights)
    folder.mkdir(parents=True, exist_ok=True)
    save_half(model, folder / f"{name}.safetensors")
    load_half(model, folder / f"{name}.safetensors")
    info = {
        "name": name,
        "architecture": recipe.architecture,
        "options": recipe.options,
        "classes": list(CLASSES),
        "mean": MEAN,
        "std": STD,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": dataclasses.asdict(recipe),
        "changes": _changes(name, recipe),
        "minutes": round(state["seconds"] / 60, 1),
        "machine": state["machine"],
        "processes": state["processes"],
        "torch": torch.__version__,
        "note": note,
        "scenes": n,
        "figures": {
            split: {k: round(v, 4) for k, v in evaluate(model, split, n).items()} for split in _SPLITS[recipe.split]
        },
    }
    with atomic_file(folder / f"{name}.json") as draft:
        draft.write_text(json.dumps(info, indent=1) + "\n", "utf-8")
    write_card(folder)
    return info


def _changes(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return where the run departed from the recipe of its name."""
    plain = dataclasses.asdict(RECIPES[name])
    return {k: v for k, v in dataclasses.asdict(recipe).items() if plain[k] != v}
