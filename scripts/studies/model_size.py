"""Do larger models explain better? One network in four widths, trained alike."""

from __future__ import annotations

import torch

import seewhy
from scripts.studies import sized
from scripts.studies.base import Page, Setting, Study, cell, mean, scored, table
from seewhy.data import Scenes

METHODS = ("grad_cam", "layer_cam", "lrp", "saliency", "integrated_gradients", "lafam", "occlusion")
METRICS = {"auc": 3, "relevance_mass_accuracy": 3, "pointing_game": 3, "fidelity": 0}
SIZES = ("quarter", "half", "whole", "double")


def make(setting: Setting) -> Page:
    """Run the study; the networks are trained first and kept in the work folder."""
    page = Page("Do larger models explain better?")
    folder = setting.work / ("sizes_quick" if setting.quick else "sizes")
    sizes = SIZES[:2] if setting.quick else SIZES
    steps, images = (3, 256) if setting.quick else (800, 12000)
    models = [{"name": size, "source": sized.trained(folder, size, steps=steps, images=images)} for size in sizes]
    by_model = scored(
        setting,
        "model_size",
        {
            "seed": 0,
            "models": models,
            "methods": list(METHODS),
            "metrics": list(METRICS),
            "data": {"name": "scenes", "split": "multi", "n": setting.n(60)},
            "protocol": {"batch_size": 10, "keep_maps": False},
        },
    )
    accuracy = {str(m["name"]): _accuracy(str(m["source"]), setting.n(300)) for m in models}
    page.add(
        f"`SceneCNN` in four widths, {steps} steps on {images} scenes each, otherwise the recipe of `scenes_cnn`.",
        table(
            ["width", "weights", "objects named right"],
            [[size, f"{_weights(size):,}", f"{accuracy[size]:.1%}"] for size in sizes],
        ),
    )
    for metric, digits in METRICS.items():
        rows = [[m, *(cell(by_model[size].get((m, metric)), digits) for size in sizes)] for m in METHODS]
        page.add(f"## {metric}", table(["method", *sizes], rows))
    first, last = sizes[0], sizes[-1]
    better = [m for m in METHODS if mean(by_model[last], m, "auc") > mean(by_model[first], m, "auc")]
    page.answer = (
        f"From {_weights(first):,} to {_weights(last):,} weights the share of objects named right goes from "
        f"{accuracy[first]:.1%} to {accuracy[last]:.1%}, and the AUC rises for {len(better)} of {len(METHODS)} methods "
        f"(Grad-CAM {mean(by_model[first], 'grad_cam', 'auc'):.2f} → {mean(by_model[last], 'grad_cam', 'auc'):.2f}, "
        f"LRP {mean(by_model[first], 'lrp', 'auc'):.2f} → {mean(by_model[last], 'lrp', 'auc'):.2f})."
    )
    return page


def _weights(size: str) -> int:
    return sum(p.numel() for p in sized.load(size, pretrained=False).module.parameters())


def _accuracy(source: str, n: int) -> float:
    """Return the share of objects whose class is among the k first answers, k the number of objects."""
    model, data = seewhy.load_model(source), Scenes("multi")
    right = total = 0
    for i in range(n):
        sample = data[i]
        with torch.no_grad():
            logits = model.run(model.preprocess(sample.image)[None]).logits
        assert logits is not None
        first = set(logits[0].topk(len(sample.labels)).indices.tolist())
        right, total = right + len(first & set(sample.labels)), total + len(sample.labels)
    return right / total


STUDY = Study("model_size", make)
