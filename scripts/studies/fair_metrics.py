"""Are the metrics fair to maps without a label? The LaFAM paper asks."""

from __future__ import annotations

from typing import Any

from scipy.stats import kendalltau

from scripts.studies.base import Page, Setting, Study, cell, mean, scored, table

METHODS: list[dict[str, Any]] = [
    {"name": "lafam"},
    {"name": "relax", "n_masks": 300},
    {"name": "nave"},
    {"name": "grad_cam"},
    {"name": "layer_cam"},
    {"name": "rise", "n_masks": 300},
    {"name": "occlusion"},
]
LABEL_FREE = ("lafam", "relax", "nave", "center", "random")
METRICS = ("multi_object", "auc", "pointing_game", "relevance_mass_accuracy")


def make(setting: Setting) -> Page:
    """Run the study: the same maps against the object of their class, and against all objects together."""
    page = Page("Are localization metrics fair to maps without a label?")
    changes = []
    for model in ("scenes_cnn", "scenes_vit"):
        both = {}
        for target in ("truth", "prediction"):
            both[target] = scored(
                setting,
                f"fair_metrics_{model}_{target}",
                {
                    "seed": 0,
                    "models": [model],
                    "methods": METHODS,
                    "metrics": list(METRICS),
                    "reference_maps": ["random", "center"],
                    "data": {"name": "scenes", "split": "multi", "n": setting.n(100)},
                    "protocol": {"target": target, "batch_size": 10, "keep_maps": False},
                },
            )[model]
        own, all_objects = both["truth"], both["prediction"]
        methods = sorted({method for method, _ in own}, key=lambda m: -mean(own, m, "auc"))
        rows = [
            [
                method + (" (label-free)" if method in LABEL_FREE else ""),
                cell(own[method, "auc"]),
                cell(all_objects[method, "auc"]),
                cell(own[method, "multi_object.single"]),
                cell(all_objects[method, "multi_object.union"]),
                cell(all_objects[method, "multi_object"]),
                cell(all_objects[method, "multi_object.minimum"]),
            ]
            for method in methods
        ]
        head = [
            "map",
            "AUC, own object",
            "AUC, all objects",
            "rank accuracy, each object alone",
            "rank accuracy, all objects",
            "recall, mean over objects",
            "recall, least",
        ]
        page.add(f"## {model}", table(head, rows))
        named = [m for m in methods if m not in ("center", "random")]
        for metric in ("auc", "pointing_game", "relevance_mass_accuracy"):
            tau = kendalltau([mean(own, m, metric) for m in named], [mean(all_objects, m, metric) for m in named])[0]
            changes.append((model, metric, float(tau)))
        first, second = (
            sorted(("lafam", "relax", "grad_cam"), key=lambda m: -mean(scores, m, "auc"))
            for scores in (own, all_objects)
        )
        page.add(
            f"LaFAM, RELAX and Grad-CAM by AUC: {' > '.join(first)} against the object of the class, "
            f"{' > '.join(second)} against all objects together."
        )
        page.answer += (
            f"{model}: against its own object LaFAM has an AUC of {mean(own, 'lafam', 'auc'):.2f} and Grad-CAM "
            f"{mean(own, 'grad_cam', 'auc'):.2f}, against all objects {mean(all_objects, 'lafam', 'auc'):.2f} and "
            f"{mean(all_objects, 'grad_cam', 'auc'):.2f}. "
        )
    page.add(
        "## How much the order of the methods changes",
        "Kendall's τ between the two orders (1: the same order, −1: turned round).",
        table(["model", "metric", "τ"], [[m, metric, f"{tau:.2f}"] for m, metric, tau in changes]),
        "A metric that compares with one object punishes a label-free map for showing the others, which it is made to "
        "do; one that compares with all objects punishes a class map for leaving the others out. Neither is fair to "
        "both, so a table should say which question it asks, or show both as here.",
    )
    low, high = min(t for *_, t in changes), max(t for *_, t in changes)
    page.answer += f"The order of the methods by one question and by the other agrees with τ = {low:.2f} to {high:.2f}."
    return page


STUDY = Study("fair_metrics", make)
