"""Which label-free map suits a ViT? The LaFAM paper leaves it open."""

from __future__ import annotations

from typing import Any

from numpy import nan_to_num

import seewhy
from scripts.studies import candidates
from scripts.studies.base import Page, Scores, Setting, Study, cell, mean, save_image, scored, table
from seewhy.data import Scenes
from seewhy.viz.figures import grid

METRICS = ("auc", "pointing_game", "relevance_mass_accuracy")
METHODS: list[dict[str, Any]] = [
    {"name": "lafam"},
    {"name": "lafam", "label": "lafam_mean", "layer": -1, "reduce": "mean"},
    {"name": "lafam", "label": "lafam_norm", "layer": -1, "reduce": "norm"},
    {"name": "lafam", "label": "lafam_distance_last", "layer": -1, "reduce": "distance"},
    *({"name": "token_affinity", "label": f"affinity_{by}", "by": by} for by in candidates.CHOICES),
    {"name": "class_token_similarity"},
    {"name": "attention_map"},
    {"name": "rollout"},
    {"name": "nave"},
]
SAYS = {
    "lafam": "LaFAM, default here: distance to the mean token, last norm1",
    "lafam_mean": "LaFAM, the paper's mean over channels, after the last block",
    "lafam_norm": "norm of the tokens, after the last block",
    "lafam_distance_last": "distance to the mean token, after the last block",
    "affinity_cosine": "1 − cosine to the mean token, last norm1",
    "affinity_principal": "first principal component, last norm1",
    "affinity_degree": "few similar tokens (as LOST's seeds), last norm1",
    "affinity_ncut": "normalized cut (as TokenCut), last norm1",
    "class_token_similarity": "cosine to the class token, after the last block",
    "attention_map": "attention of the class token, last block",
    "rollout": "attention rollout",
    "nave": "NAVE, similarity to the chosen cluster",
    "center": "a map in the middle, without a model",
    "random": "random",
}


def plan(models: list[Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return the plan: every candidate against all objects of the image together."""
    return {
        "seed": 0,
        "models": models,
        "methods": METHODS,
        "metrics": list(METRICS),
        "reference_maps": ["random", "center"],
        "data": data,
        "protocol": {"target": "prediction", "batch_size": 10, "keep_maps": False},
    }


def make(setting: Setting) -> Page:
    """Run the study."""
    page = Page("Which label-free map suits a ViT?")
    scenes = {"name": "scenes", "split": "multi", "n": setting.n(100)}
    results: dict[str, Scores] = {
        "scenes with two or three objects": scored(
            setting, "lafam_vit_scenes", plan(["scenes_vit", "scenes_vit_registers"], scenes)
        )
    }
    if setting.cutouts and setting.vit:
        cutouts = {"name": "folder", "root": str(setting.cutouts), "n": setting.n(100)}
        source = {
            "name": "vit_s14",
            "source": str(setting.vit),
            "architecture": "timm/vit_small_patch14_dinov2",
            "img_size": 224,
        }
        results["images with one or two cut-out objects"] = scored(
            setting, "lafam_vit_cutouts", plan([source], cutouts)
        )
    aucs = {}
    for data, by_model in results.items():
        for model, scores in by_model.items():
            methods = sorted({method for method, _ in scores}, key=lambda m: -nan_to_num(mean(scores, m, "auc")))
            rows = [[SAYS[m], *(cell(scores.get((m, metric))) for metric in METRICS)] for m in methods]
            page.add(f"## {model}, {data}", table(["map", "AUC", "pointing game", "mass in the objects"], rows))
            aucs[model] = {m: mean(scores, m, "auc") for m in methods}
    page.add(
        "Maps are compared with all objects of an image together. The reason for the last norm1: what comes after "
        "it in the patch tokens of a model with a class token is read by nothing, so training does not shape it.",
        _examples(setting),
    )
    page.answer = (
        "The distance of each token to the mean token, taken at the last block's first norm: AUC "
        + ", ".join(f"{found['lafam']:.2f} ({model})" for model, found in aucs.items())
        + ", where the channel mean has "
        + ", ".join(f"{found['lafam_mean']:.2f}" for found in aucs.values())
        + " and the attention map "
        + ", ".join(f"{found['attention_map']:.2f}" for found in aucs.values() if "attention_map" in found)
        + ". It is LaFAM's default for tokens."
    )
    return page


SHOWN = {
    "lafam": "LaFAM: distance",
    "lafam_mean": "channel mean",
    "affinity_ncut": "normalized cut",
    "attention_map": "attention",
}


def _examples(setting: Setting) -> str:
    model, data = seewhy.load_model("scenes_vit"), Scenes("multi")
    options = {m.get("label", m["name"]): {k: v for k, v in m.items() if k != "label"} for m in METHODS}
    rows = []
    for i in range(setting.n(4, 2)):
        tables = [options[label] for label in SHOWN]
        explanations = [seewhy.explain(model, data[i].image, m["name"], **_rest(m)) for m in tables]
        rows.append([explanations[0].image, *explanations])
    drawn = grid(rows, None, ["image", *SHOWN.values()], "scenes_vit", cell=160)
    return save_image(setting, "lafam_vit", drawn, "Four scenes and four maps of each")


def _rest(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "name"}


STUDY = Study("lafam_vit", make)
