"""From a finished run to what ships: half-precision weights, the figures measured on them, and the card."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seewhy.data.scenes import CLASSES
from seewhy.errors import WeightsError
from seewhy.models.reference.scenes import MEAN, STD, build
from seewhy.training.evaluate import evaluate
from seewhy.training.recipes import RECIPES, Recipe

_ASKED = {
    "train": ("single", "multi", "blank"),
    "train_absent": ("single", "multi", "absent", "blank"),
    "train_shortcut": ("shortcut", "single"),
}


def save_half(model: nn.Module, path: Path) -> None:
    """Write the weights in half precision (whole numbers as they are), replacing the file at once."""
    from safetensors.torch import save

    state = {
        k: v.detach().to("cpu", torch.float16 if v.is_floating_point() else v.dtype).contiguous()
        for k, v in model.state_dict().items()
    }
    part = path.with_suffix(".part")
    part.write_bytes(save(state))
    part.replace(path)


def ship(name: str, run: str | Path, weights: str | Path, n: int = 1000, note: str = "") -> dict[str, Any]:
    """Put the finished run's model into folder `weights` as NAME.safetensors and NAME.json, and renew the card.

    The figures are measured on the half-precision weights as they ship, on n scenes of each split.

    Raises:
        WeightsError: the run has not come to its last step.
    """
    from safetensors.torch import load_file

    state = torch.load(Path(run) / "checkpoint.pt", map_location="cpu", weights_only=True)
    recipe = Recipe(**json.loads(state["recipe"]))
    if state["step"] < recipe.steps:
        raise WeightsError(f"{run} stands at step {state['step']} of {recipe.steps}; finish it with --resume")
    model = build(recipe.architecture, **recipe.options)
    model.load_state_dict({k.removeprefix("model."): v for k, v in state["student"].items() if k.startswith("model.")})
    folder = Path(weights)
    folder.mkdir(parents=True, exist_ok=True)
    save_half(model, folder / f"{name}.safetensors")
    model.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / f"{name}.safetensors").items()}
    )
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
            split: {k: round(v, 4) for k, v in evaluate(model, split, n).items()} for split in _ASKED[recipe.split]
        },
    }
    (folder / f"{name}.json").write_text(json.dumps(info, indent=1) + "\n")
    write_card(folder)
    return info


def machine(device: torch.device, precision: str, processes: int) -> str:
    """Where a run took place, in words."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{processes} × {where} ({platform.machine()}), {precision}"


def _changes(name: str, recipe: Recipe) -> dict[str, Any]:
    """Where the run departed from the recipe of its name."""
    plain = dataclasses.asdict(RECIPES[name])
    return {k: v for k, v in dataclasses.asdict(recipe).items() if plain[k] != v}


def write_card(folder: Path) -> None:
    """MODEL_CARD.md from the NAME.json files beside it: every number on it was measured by `ship`."""
    models = [json.loads(path.read_text()) for path in sorted(folder.glob("scenes_*.json"))]
    (folder / "MODEL_CARD.md").write_text(
        "\n".join([*_INTRODUCTION, *_accuracy(models), *_others(models), *_training(models), *_LIMITS]) + "\n"
    )


_INTRODUCTION = """# Reference models of the made world

Written by `seewhy.training.export`; do not edit by hand.

Small models that solve `seewhy.data.Scenes` (12 shape classes on 96 px pictures, several objects or none per picture),
so that every method of seewhy runs offline in a second on a model whose right answers are known. Trained from
scratch on scenes that seewhy draws itself; no photo and no outside weights went in. Apache-2.0, like the code.

Input: (B, 3, 96, 96), bytes / 255, minus 0.5, over 0.25. Output: one logit per class, independent (sigmoid).
`seewhy.models.reference.scenes.load(NAME)` gives the model and its NAME.json; `seewhy.data.Scenes(SPLIT, seed=0)` the test
splits, which share no seed with training.

""".splitlines()

_LIMITS = """
## What they are not

They know drawn silhouettes on made backgrounds and nothing of photos. The `shortcut` models are wrong on purpose:
they read the mark in the corner. The `absent` model never saw a fish. The models with a teacher learnt their patch
tokens from the CNN's last feature map, so a transformer's maps and its teacher's are not independent evidence.
""".splitlines()


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    return ["| " + " | ".join(map(str, line)) + " |" for line in (head, ["---"] * len(head), *rows)] + [""]


def _accuracy(models: list[dict[str, Any]]) -> list[str]:
    rows = [
        [
            m["name"],
            f"{m['parameters']:,}",
            split,
            f"{f['mAP']:.3f}",
            f"{f['ECE']:.4f}",
            f"{f['top1']:.3f}",
            m["scenes"],
        ]
        for m in models
        for split, f in m["figures"].items()
        if split in ("single", "multi")
    ]
    return [
        "## Accuracy",
        "",
        "Half-precision weights as shipped, the first scenes of each split, seed 0. mAP: mean "
        "average precision over the classes; ECE: expected calibration error of the sigmoid, 15 bins; top-1: the "
        "highest score is of an object that is there.",
        "",
        *_table(["model", "parameters", "split", "mAP", "ECE", "top-1", "scenes"], rows),
    ]


def _others(models: list[dict[str, Any]]) -> list[str]:
    rows = [
        [m["name"], split, ", ".join(f"{k} {v:.3f}" for k, v in f.items())]
        for m in models
        for split, f in m["figures"].items()
        if split not in ("single", "multi")
    ]
    return [
        "On `shortcut` the mark contradicts the object in half of the scenes: `mark wins` and `object wins` are "
        "shares of those. On `blank`, `alarm` is the share of empty scenes with any class above one half.",
        "",
        *_table(["model", "split", "figures"], rows),
    ]


def _training(models: list[dict[str, Any]]) -> list[str]:
    rows = []
    for m in models:
        changes = "".join(f" --set {k}={v}" for k, v in m["changes"].items())
        team = f"torchrun --no-python --nproc-per-node {m['processes']} " if m["processes"] > 1 else ""
        command = f"`{team}seewhy train scenes --model {m['name']} --out runs/{m['name']}{changes}`"
        r = m["recipe"]
        rows.append(
            [
                m["name"],
                f"{r['steps']} × {r['batch']}",
                r["teacher"] or "labels only",
                r["start"] or "scratch",
                m["minutes"],
                m["machine"],
                command,
            ]
        )
    return [
        "## Training",
        "",
        "Data seed 0, weights seed 0. `minutes` is the wall time of the steps, on a machine "
        "shared with other work; drawing the training set (about 4 ms per picture and process) comes "
        "on top.",
        "",
        *_table(["model", "steps × batch", "teacher", "start", "minutes", "machine", "command"], rows),
        *(f"- {m['name']}: {m['note']}" for m in models if m["note"]),
    ]
