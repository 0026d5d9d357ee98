"""What does training do to NAVE? And its number of clusters, layers, resolution, algorithm, single or joint."""

from __future__ import annotations

from typing import Any

from scripts.studies.base import Page, Scores, Setting, Study, cell, mean, scored, table

PARTS = {
    "cluster_boxes.corloc": "chosen box, CorLoc",
    "cluster_boxes": "chosen box, IoU",
    "cluster_boxes.oracle_corloc": "best of all boxes (oracle), CorLoc",
    "cluster_boxes.oracle": "oracle, IoU",
}
MODELS: list[dict[str, Any]] = [
    {"name": "scenes_vit", "source": "scenes_vit"},
    {"name": "scenes_vit, untrained", "source": "scenes_vit", "pretrained": False},
    {"name": "scenes_vit_registers", "source": "scenes_vit_registers"},
    {"name": "scenes_vit_shortcut (other data)", "source": "scenes_vit_shortcut"},
    {"name": "scenes_cnn", "source": "scenes_cnn"},
    {"name": "scenes_cnn, untrained", "source": "scenes_cnn", "pretrained": False},
    {"name": "scenes_cnn_absent (other data)", "source": "scenes_cnn_absent"},
    {"name": "scenes_cnn_shortcut (other data)", "source": "scenes_cnn_shortcut"},
]
TRAINING: list[dict[str, Any]] = [
    {"name": "nave", "label": "equal weights", "balance": "equal"},
    {"name": "nave", "label": "the paper's weights"},
]
SETTINGS: list[dict[str, Any]] = [
    *({"name": "nave", "label": f"K = {k}", "k": k, "balance": "equal"} for k in (3, 4, 5, 7, 10)),
    {"name": "nave", "label": "last stage alone", "layers": [-1], "balance": "equal"},
    {"name": "nave", "label": "12 × 12 positions", "size": [12, 12], "balance": "equal"},
    {"name": "nave", "label": "24 × 24 positions", "size": [24, 24], "balance": "equal"},
    {"name": "nave", "label": "agglomerative", "algorithm": "agglomerative", "balance": "equal"},
    {"name": "nave", "label": "ten images jointly", "joint": True, "balance": "equal"},
]


def _scored(setting: Setting, name: str, models: list[Any], methods: list[Any]) -> Scores:
    return scored(
        setting,
        name,
        {
            "seed": 0,
            "models": models,
            "methods": methods,
            "metrics": ["cluster_boxes"],
            "data": {"name": "scenes", "split": "multi", "n": setting.n(100)},
            "protocol": {"target": "prediction", "batch_size": 10, "keep_maps": False},
        },
    )


def make(setting: Setting) -> Page:
    """Run the study."""
    page = Page("What does training do to NAVE's boxes?")
    by_model = _scored(setting, "nave_training", MODELS, TRAINING)
    for method in TRAINING:
        label = method["label"]
        rows = [
            [model["name"], *(cell(by_model[model["name"]].get((label, part))) for part in PARTS)]
            for model in MODELS
            if model["name"] in by_model
        ]
        page.add(f"## Training, {label}, K = 5", table(["model", *PARTS.values()], rows))
    by_setting = _scored(setting, "nave_settings", ["scenes_vit", "scenes_cnn"], SETTINGS)
    for model, scores in by_setting.items():
        rows = [[m["label"], *(cell(scores.get((m["label"], part))) for part in PARTS)] for m in SETTINGS]
        page.add(f"## Settings, {model}, equal weights", table(["setting", *PARTS.values()], rows))
    page.add(
        "The oracle asks whether any of all boxes meets an object. With many clusters some box does, whatever the "
        "network knows; the chosen box is the number that "
        "training moves most."
    )
    sentences = []
    for family in ("scenes_vit", "scenes_cnn"):
        trained, fresh = by_model[family], by_model[f"{family}, untrained"]
        oracle, chosen = "cluster_boxes.oracle_corloc", "cluster_boxes.corloc"
        label = TRAINING[0]["label"]
        sentences.append(
            f"{family}: the oracle's CorLoc is {mean(trained, label, oracle):.2f} with training and "
            f"{mean(fresh, label, oracle):.2f} without, the chosen box's {mean(trained, label, chosen):.2f} and "
            f"{mean(fresh, label, chosen):.2f}"
        )
    page.answer = "; ".join(sentences) + "."
    return page


STUDY = Study("nave_training", make)
