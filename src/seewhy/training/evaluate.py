"""Evaluation of reference models on scenes: ranking, calibration, and their answers to marks and blanks."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import nn

from seewhy.data.scenes import Scenes
from seewhy.training.batches import normalize_images
from seewhy.training.pool import multi_hot

Scores: TypeAlias = Float[ndarray, "n classes"]
Truth: TypeAlias = Bool[ndarray, "n classes"]


def average_precision(scores: Float[ndarray, " n"], truth: Bool[ndarray, " n"]) -> float:
    """Return the mean, over the positives, of the precision among everything that scores at least as high.

    NaN where nothing is positive. Ties count as ranked together, so a constant score gets the share of positives.
    """
    if not truth.any():
        return float("nan")
    levels, places = np.unique(-scores, return_inverse=True)
    seen = np.cumsum(np.bincount(places, minlength=len(levels)))
    hits = np.cumsum(np.bincount(places[truth], minlength=len(levels)))
    return float((hits / seen)[places[truth]].mean())


def mean_average_precision(scores: Scores, truth: Truth) -> float:
    """Return the mean over the classes that occur."""
    return float(np.nanmean([average_precision(s, t) for s, t in zip(scores.T, truth.T, strict=True)]))


def calibration_error(probabilities: Scores, truth: Truth, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al., 2017) over all (image, class) answers, in equal bins."""
    p, t = probabilities.ravel(), truth.ravel().astype(np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.bincount(place, p - t, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


@torch.no_grad()
def predict(model: nn.Module, scenes: Scenes, batch: int = 100) -> Scores:
    """Return the model's probability of each class, for each scene; the model's mode is put back."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        parts = []
        for start in range(0, len(scenes), batch):
            images = [np.asarray(scenes[i].image) for i in range(start, min(start + batch, len(scenes)))]
            x = normalize_images(torch.from_numpy(np.stack(images)).to(device))
            parts.append(model(x).float().sigmoid().cpu().numpy())
        return np.concatenate(parts).astype(np.float64)
    finally:
        model.train(training)


def evaluate(model: nn.Module, split: str, n: int = 1000, seed: int = 0) -> dict[str, float]:
    """Measure a model on the first n scenes of a split.

    Returns:
        `mAP` and `ECE`; `top1`: how often the highest score is of an object that is there; on `shortcut` also, of the
        scenes whose mark contradicts the object, the share in which the mark's and the object's class win; on `blank`
        only `alarm`: the share of scenes in which any class scores above one half.
    """
    scenes = Scenes(split, seed, n)
    scores = predict(model, scenes)
    plans = [scenes.plan(i) for i in range(n)]
    truth = np.stack([multi_hot(plan.classes) for plan in plans]) > 0
    if not truth.any():
        return {"alarm": float((scores.max(1) > 0.5).mean())}
    top = scores.argmax(1)
    figures = {
        "mAP": mean_average_precision(scores, truth),
        "ECE": calibration_error(scores, truth),
        "top1": float(truth[np.arange(n), top].mean()),
    }
    contradicted = np.array([plan.mark_class is not None and plan.mark_class not in plan.classes for plan in plans])
    if contradicted.any():
        marks = np.array([-1 if plan.mark_class is None else plan.mark_class for plan in plans])
        figures["mark wins"] = float((top == marks)[contradicted].mean())
        figures["object wins"] = float(truth[np.arange(n), top][contradicted].mean())
    return figures
