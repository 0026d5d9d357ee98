"""Values that no single map has: of all maps of a method together, with intervals from resampled images."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from seewhy.bench import stats
from seewhy.bench.report.run_data import Panel, Run
from seewhy.metrics import METRICS

DRAWS = 200  # each measures the whole set anew


def columns(
    run: Run, panel: Panel, method: str, metric: str, label: str
) -> tuple[dict[str, Float[ndarray, "maps"]], ndarray]:
    """A metric's value ("") and parts of each of a method's maps, and the images that the maps are of.

    `label` is what the run calls the registered `metric`.
    """
    labels = {"": label, **{part: f"{label}.{part}" for part in METRICS[metric].card.parts}}
    picked = ", ".join(f'max(value) FILTER (metric = ?) AS "{name}."' for name in labels)
    found = run.arrays(
        f"SELECT sample, {picked} FROM scores WHERE model = ? AND data = ? AND split = ? AND method = ? "
        "GROUP BY sample, entry HAVING count(*) FILTER (metric = ?) > 0 ORDER BY entry, sample",
        *labels.values(),
        *panel.key,
        method,
        label,
    )
    return {name: np.ma.filled(np.ma.asarray(found[f"{name}."], float), np.nan) for name in labels}, found["sample"]


def measured(
    metric: str,
    name: str,
    values: dict[str, Float[ndarray, "maps"]],
    samples: ndarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The value of a whole set with its 95 % interval; images are resampled, each with all its maps.

    NaN without a value, and for the interval where there are fewer than two images.
    """
    made = METRICS[metric].aggregate
    tensors = {key: torch.from_numpy(column) for key, column in values.items()}
    if not np.isfinite(values.get("", np.zeros(0))).any():
        return np.nan, np.nan, np.nan
    images = np.unique(samples, return_inverse=True)[1]
    maps = [np.flatnonzero(images == i) for i in range(images.max() + 1)]
    generator, found = np.random.default_rng(seed), []
    for _ in range(draws if len(maps) > 1 else 0):
        drawn = torch.from_numpy(np.concatenate([maps[i] for i in generator.integers(len(maps), size=len(maps))]))
        found.append(made({key: column[drawn] for key, column in tensors.items()})[name])
    tail = (1 - stats.LEVEL) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail]) if np.isfinite(found).any() else (np.nan, np.nan)
    return made(tensors)[name], float(low), float(high)
