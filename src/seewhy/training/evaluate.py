"""How well a reference model knows the made world: ranking, calibration, and what it makes of marks and blanks."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import nn

from seewhy.data.scenes import Scenes
from seewhy.training.pool import multi_hot
from seewhy.training.scenes import prepare

Scores = Float[ndarray, "n classes"]
Truth = Bool[ndarray, "n classes"]


def average_precision(scores: Float[ndarray, " n"], truth: Bool[ndarray, " n"]) -> float:
    """The mean, over the true items, of the precision among everything that scores at least as high.

    NaN where nothing is true. Ties count as ranked together, so a constant score gets the share of true items.
    """
    if not truth.any():
        return float("nan")
    levels, places = np.unique(-scores, return_inverse=True)
    seen = np.cumsum(np.bincount(places, minlength=len(levels)))
    hits = np.cumsum(np.bincount(places[truth], minlength=len(levels)))
    return float((hits / seen)[places[truth]].mean())


def mean_average_precision(scores: Scores, truth: Truth) -> float:
    """Mean over the classes that occur."""
    return float(np.nanmean([average_precision(s, t) for s, t in zip(scores.T, truth.T, strict=True)]))


def calibration_error(probabilities: Scores, truth: Truth, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017) over all (picture, class) answers, in bins of equal width."""
    p, t = probabilities.ravel(), truth.ravel().astype(np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = np.bincount(place, p - t, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


@torch.no_grad()
def predict(model: nn.Module, scenes: Scenes, batch: int = 100) -> Scores:
    """The model's probability of each class, for each scene; the model's mode is put back."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        blocks = []
        for start in range(0, len(scenes), batch):
            images = [np.asarray(scenes[i].image) for i in range(start, min(start + batch, len(scenes)))]
            x = prepare(torch.from_numpy(np.stack(images)).to(device))
            blocks.append(model(x).float().sigmoid().cpu().numpy())
        return np.concatenate(blocks).astype(np.float64)
    finally:
        model.train(training)


def evaluate(model: nn.Module, split: str, n: int = 1000, seed: int = 0) -> dict[str, float]:
    """The figures of a model on the first n scenes of a split.

    Returns:
        `mAP` and `ECE`; `top1`: how often the highest score is of an object that is there; on `shortcut` also, of the
        scenes whose mark contradicts the object, the share in which the mark's and the object's class win; on `blank`
        only `alarm`: the share of scenes in which any class scores above one half.
    """
    scenes = Scenes(split, seed, n)
    scores = predict(model, scenes)
    items = [_answer(scenes, i) for i in range(n)]
    truth = np.stack([multi_hot(labels) for labels, _ in items]) > 0
    if not truth.any():
        return {"alarm": float((scores.max(1) > 0.5).mean())}
    top = scores.argmax(1)
    figures = {
        "mAP": mean_average_precision(scores, truth),
        "ECE": calibration_error(scores, truth),
        "top1": float(truth[np.arange(n), top].mean()),
    }
    against = np.array([mark is not None and mark not in labels for labels, mark in items])
    if against.any():
        marks = np.array([-1 if mark is None else mark for _, mark in items])
        figures["mark wins"] = float((top == marks)[against].mean())
        figures["object wins"] = float(truth[np.arange(n), top][against].mean())
    return figures


def _answer(scenes: Scenes, i: int) -> tuple[tuple[int, ...], int | None]:
    plan = scenes.plan(i)
    return plan.classes, plan.mark_class
