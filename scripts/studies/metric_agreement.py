"""Which metrics say the same? Kendall's τ between the orders in which they put the methods."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray
from scipy.stats import kendalltau

from scripts.studies.base import Page, Scores, Setting, Study, mean, save_figure, scored, scores_in, table
from seewhy.bench.presets import plan_text
from seewhy.bench.toml import parse_toml

METRICS = {
    "fidelity": "fidelity",
    "box_sensitivity": "box sensitivity",
    "fidelity_discrimination": "discrimination, fidelity",
    "box_discrimination": "discrimination, boxes",
    "compactness": "compactness",
    "compactness_signed": "compactness, signed",
    "pointing_game": "pointing game",
    "relevance_mass_accuracy": "mass accuracy",
    "auc": "AUC",
    "multi_object": "multi-object recall",
}
REFERENCES = ("center", "random")
QUICK = ["cdam", "grad_cam", "lafam", "saliency", "attention_map", "input_x_gradient"]


def make(setting: Setting) -> Page:
    """Run the study on the preset scenes_multi; a finished run of it in the work folder is read as it is."""
    page = Page("Which metrics say the same?")
    finished = setting.work / "scenes_multi"
    if not setting.quick and (finished / "plan.toml").is_file():
        by_model: Scores = scores_in(finished)
    else:
        plan = parse_toml(plan_text("scenes_multi", n=setting.n(30)))
        if setting.quick:
            plan = {**plan, "methods": QUICK, "models": ["scenes_vit"]}
        by_model = scored(setting, "scenes_multi", plan)
    found: dict[str, dict[str, float]] = {}
    for model, scores in by_model.items():
        methods = sorted({method for method, _ in scores} - set(REFERENCES))
        names = [metric for metric in METRICS if any(np.isfinite(mean(scores, m, metric)) for m in methods)]
        values = np.array([[mean(scores, m, metric) for m in methods] for metric in names])
        taus = _taus(values)
        rows = [
            [METRICS[metric], *("" if j > i else f"{taus[i, j]:.2f}" for j in range(len(names)))]
            for i, metric in enumerate(names)
        ]
        page.add(f"## {model}: {len(methods)} methods", table(["", *(METRICS[m] for m in names)], rows))
        page.add(save_figure(setting, f"metric_agreement_{model}", _drawn(taus, names), f"The same, {model}"))
        found[model] = {"auc": taus[names.index("fidelity"), names.index("auc")] if "auc" in names else np.nan}
        off = [(taus[i, j], names[i], names[j]) for i in range(len(names)) for j in range(i)]
        high, low = max(off), min(off)
        page.answer += (
            f"{model}: {METRICS[high[1]]} and {METRICS[high[2]]} agree most (τ = {high[0]:.2f}), {METRICS[low[1]]} and "
            f"{METRICS[low[2]]} least (τ = {low[0]:.2f}); fidelity and AUC have τ = {found[model]['auc']:.2f}. "
        )
    page.answer = page.answer.strip()
    page.add(
        "τ is of the mean of each method, over methods with a value in both metrics; the two reference maps are left "
        "out. 1: the same order, 0: unrelated, −1: turned round."
    )
    return page


def _taus(values: ndarray) -> ndarray:
    """Return τ between every two rows, over the columns that both have."""
    n = len(values)
    taus = np.eye(n)
    for i in range(n):
        for j in range(i):
            both = np.isfinite(values[i]) & np.isfinite(values[j])
            taus[i, j] = taus[j, i] = kendalltau(values[i, both], values[j, both])[0]
    return taus


def _drawn(taus: ndarray, names: list[str]) -> Figure:
    figure = Figure(figsize=(6.2, 5.2))
    axes = figure.subplots()
    image = axes.imshow(taus, vmin=-1, vmax=1, cmap="PuOr")
    labels = [METRICS[name] for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), labels)
    for i in range(len(names)):
        for j in range(len(names)):
            if np.isfinite(taus[i, j]):
                dark = abs(taus[i, j]) > 0.7
                axes.text(j, i, f"{taus[i, j]:.1f}", ha="center", va="center", color="w" if dark else "k", fontsize=7)
    figure.colorbar(image, ax=axes, label="Kendall's τ")
    return figure


STUDY = Study("metric_agreement", make)
