"""Values that no single map has: of all maps of a method together, with intervals from resampled images."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from seewhy.bench import stats
from seewhy.bench.report.infos import Panel
from seewhy.bench.report.run_data import RunData
from seewhy.metrics import METRICS

RESAMPLES = 200
"""Fewer than for means, since each resample computes the value of a whole set anew."""


def load_values(
    run: RunData, panel: Panel, method: str, metric: str, label: str
) -> tuple[dict[str, Float[ndarray, "maps"]], ndarray]:
    """Load a metric's values and parts for all maps of a method.

    Args:
        run: The run.
        panel: The model and its data.
        method: Label of the method.
        metric: Registered name of the metric.
        label: What the run calls the metric.

    Returns:
        Values ("") and parts by name, and for each map the image that it is of.
    """
    labels = {"": label, **{part: f"{label}.{part}" for part in METRICS[metric].card.parts}}
    columns = ", ".join(f'max(value) FILTER (metric = ?) AS "{name}."' for name in labels)
    rows = run.query_arrays(
        f"SELECT sample, {columns} FROM scores WHERE model = ? AND data = ? AND split = ? AND method = ? "
        "GROUP BY sample, entry HAVING count(*) FILTER (metric = ?) > 0 ORDER BY entry, sample",
        *labels.values(),
        *panel.key,
        method,
        label,
    )
    values: dict[str, ndarray] = {name: np.ma.filled(np.ma.asarray(rows[f"{name}."], float), np.nan) for name in labels}
    return values, rows["sample"]


def aggregate_with_interval(
    metric: str,
    name: str,
    values: dict[str, Float[ndarray, "maps"]],
    samples: ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Compute the value of a whole set with its 95 % interval.

    Args:
        metric: Registered name of the metric.
        name: Name of the aggregate.
        values: As `load_values` returns them.
        samples: As `load_values` returns them.
        resamples: How often images are resampled, each with all its maps.
        seed: Seed of the resampling.

    Returns:
        The value and the ends of its interval; NaN without any value, and for the interval with fewer than
        `stats.FEWEST_FOR_INTERVAL` images.
    """
    aggregate = METRICS[metric].aggregate
    tensors = {key: torch.from_numpy(column) for key, column in values.items()}
    if not np.isfinite(values.get("", np.zeros(0))).any():
        return np.nan, np.nan, np.nan
    image_of_map = np.unique(samples, return_inverse=True)[1]
    maps_of_image = [np.flatnonzero(image_of_map == i) for i in range(image_of_map.max() + 1)]
    images = len(maps_of_image)
    generator = np.random.default_rng(seed)
    resampled = []
    for _ in range(resamples if images >= stats.FEWEST_FOR_INTERVAL else 0):
        drawn_images = generator.integers(images, size=images)
        drawn = torch.from_numpy(np.concatenate([maps_of_image[i] for i in drawn_images]))
        resampled.append(aggregate({key: column[drawn] for key, column in tensors.items()})[name])
    low = high = np.nan
    if np.isfinite(resampled).any():
        tail = (1 - stats.LEVEL) / 2
        low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return aggregate(tensors)[name], float(low), float(high)
