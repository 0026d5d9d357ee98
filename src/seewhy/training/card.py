"""The model card of the reference models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_card(folder: Path) -> None:
    """Write MODEL_CARD.md from the NAME.json files beside it: every number on it was measured by `ship`."""
    models = [json.loads(path.read_text()) for path in sorted(folder.glob("scenes_*.json"))]
    (folder / "MODEL_CARD.md").write_text(
        "\n".join([*_INTRODUCTION, *_accuracy(models), *_others(models), *_training(models), *_LIMITS]) + "\n"
    )


_INTRODUCTION = """# Reference models of the scenes

Written by `seewhy.training.card`; do not edit by hand.

Small models that solve `seewhy.data.Scenes` (12 shape classes on 96 px images, several objects or none per image),
so that every method of seewhy runs offline in a second on a model whose right answers are known. Trained from
scratch on scenes that seewhy draws itself; no photograph and no other weights were used. Apache-2.0, like the code.

Input: (B, 3, 96, 96), bytes / 255, minus 0.5, over 0.25. Output: one logit per class, independent (sigmoid).
`seewhy.models.reference.scenes.load(NAME)` gives the model and its NAME.json; `seewhy.data.Scenes(SPLIT, seed=0)`
the test splits, which share no seed with training.

""".splitlines()

_LIMITS = """
## Limits

They know drawn silhouettes on drawn backgrounds and nothing of photographs. The `shortcut` models are wrong on purpose:
they read the mark in the corner. The `absent` model never saw a fish. The models with a teacher learned their patch
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
        "shared with other work; drawing the training set (about 4 ms per image and process) comes "
        "on top.",
        "",
        *_table(["model", "steps × batch", "teacher", "start", "minutes", "machine", "command"], rows),
        *(f"- {m['name']}: {m['note']}" for m in models if m["note"]),
    ]
