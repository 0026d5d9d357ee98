"""σ of Smooth CDAM, the number of samples of Smooth and Integrated CDAM, and whether CDAM follows the attention."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import seewhy
from scripts.studies.base import Page, Setting, Study, cell, mean, save_figure, scored, table
from seewhy.bench import stats
from seewhy.data import Scenes

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
SAMPLES = (2, 5, 10, 25, 50, 100)
METRICS = {"fidelity": 1, "compactness_signed": 3, "auc": 3}


def make(setting: Setting) -> Page:
    """Run the study."""
    page = Page("How do σ and n change Smooth and Integrated CDAM, and does CDAM follow the attention?")
    smooth = [{"name": "smooth_cdam", "label": f"smooth σ={s}", "sigma": s, "n_samples": 50} for s in SIGMAS]
    few = [{"name": "smooth_cdam", "label": f"smooth n={n}", "sigma": 0.05, "n_samples": n} for n in SAMPLES]
    path = [{"name": "integrated_cdam", "label": f"integrated n={n}", "n_steps": n} for n in SAMPLES]
    methods: list[dict[str, Any]] = [{"name": "cdam"}, {"name": "attention_map"}, *smooth, *few, *path]
    scores = scored(
        setting,
        "cdam_options",
        {
            "seed": 1,  # not the scenes on which methods are compared
            "models": ["scenes_vit"],
            "methods": methods,
            "metrics": ["fidelity", {"name": "compactness", "label": "compactness_signed", "variant": "signed"}, "auc"],
            "data": {"name": "scenes", "split": "multi", "n": setting.n(60), "seed": 1},
            "protocol": {"upsampling": "nearest", "batch_size": 10, "keep_maps": False},
        },
    )["scenes_vit"]

    def rows(chosen: list[dict[str, Any]]) -> list[list[str]]:
        labels = [m.get("label", m["name"]) for m in chosen]
        return [[label, *(cell(scores.get((label, m)), digits) for m, digits in METRICS.items())] for label in labels]

    head = ["method", "fidelity (logit · percent)", "compactness, signed", "AUC"]
    page.add("## σ of Smooth CDAM, n = 50", table(head, rows([methods[0], *smooth])))
    page.add("## n of Smooth CDAM, σ = 0.05", table(head, rows(few)))
    page.add("## n of Integrated CDAM", table(head, rows([methods[0], *path])))
    best = max(SIGMAS, key=lambda s: mean(scores, f"smooth σ={s}", "fidelity"))
    share, figure = _attention(setting)
    page.add(
        "## CDAM beside the attention",
        "A token that the class token does not attend to (A = 0) cannot change the class token's attention branch, so "
        "its CDAM is small; the sign and size are decided by the value and the class (appendix A.1 of the paper).",
        figure,
    )
    page.answer = (
        f"Smooth CDAM has its best fidelity at σ = {best} of the range "
        f"({mean(scores, f'smooth σ={best}', 'fidelity'):.0f}; plain CDAM {mean(scores, 'cdam', 'fidelity'):.0f}); "
        f"with n = 10 samples it has {mean(scores, 'smooth n=10', 'fidelity'):.0f} of the "
        f"{mean(scores, 'smooth n=50', 'fidelity'):.0f} of n = 50, Integrated CDAM "
        f"{mean(scores, 'integrated n=10', 'fidelity'):.0f} of "
        f"{mean(scores, 'integrated n=50', 'fidelity'):.0f}. {share}"
    )
    return page


def _attention(setting: Setting) -> tuple[str, str]:
    """Compare |CDAM| with the attention, token by token; return a sentence and the figure."""
    model, data = seewhy.load_model("scenes_vit"), Scenes("multi", seed=1)
    points: list[tuple[torch.Tensor, torch.Tensor]] = []
    for i in range(setting.n(60)):
        sample = data[i]
        attention = seewhy.explain(model, sample.image, "attention_map").attribution.flatten()
        for label in sample.labels:
            points.append((attention, seewhy.explain(model, sample.image, "cdam", int(label)).attribution.flatten()))
    correlations = torch.tensor([float(spearmanr(a, s.abs())[0]) for a, s in points])
    width = stats.intervals(correlations.double().numpy()[:, None], torch.ones(len(points), 1).int().numpy())
    figure = Figure(figsize=(5, 3.4))
    axes = figure.subplots()
    attention, scores = (torch.cat([pair[k] for pair in points]) for k in (0, 1))
    axes.scatter(attention, scores, s=2, alpha=0.25, linewidths=0, color="#0072b2", rasterized=True)
    axes.axhline(0, color="0.6", linewidth=0.7)
    axes.set_xlabel("attention of the class token")
    axes.set_ylabel("CDAM")
    axes.set_xscale("log")
    figure.tight_layout()
    sentence = (
        f"|CDAM| follows the attention with a rank correlation of {float(width.mean[0]):.2f} "
        f"[{float(width.low[0]):.2f}, {float(width.high[0]):.2f}] over the tokens of a map."
    )
    return sentence, save_figure(setting, "cdam_options", figure, "Each dot a token: its CDAM over its attention")


STUDY = Study("cdam_options", make)
