"""From maps and measurements to the records of a run's tables; the columns are those of `parts.schemas`."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seewhy.bench.execute.scoring import measure
from seewhy.bench.map_maker import MapMaker
from seewhy.bench.samples import ImageTarget, SampleBatch, class_logits
from seewhy.bench.setup import ModelSetup, ModelSummary
from seewhy.core.cards import Capability, Requirement
from seewhy.core.maps import normalize, resize_maps
from seewhy.metrics import Measurement, Metric

STORED_CELLS = 56
"""Longer side of a stored map."""

STORED_SIDE = 224
"""Longer side of a stored image in pixels."""

Record: TypeAlias = dict[str, Any]
"""Values by column."""


def metric_records(
    setup: ModelSetup,
    batch: SampleBatch,
    map_maker: MapMaker,
    maps: Float[Tensor, "pairs r c"],
    seconds: float,
) -> list[Record]:
    """Return a record for each target and metric, and one for each part of a metric.

    Args:
        setup: The model's setup.
        batch: The samples.
        map_maker: What computed the maps.
        maps: A map for each pair of the batch, as computed.
        seconds: Time for one map.
    """
    records: list[Record] = []
    maps = normalize_maps(maps, setup.plan.protocol.normalize)
    resized: dict[tuple[int, int], Tensor] = {}
    passes = float(map_maker.passes)
    about = [_identify(setup, batch, t, map_maker.label, seconds=seconds, passes=passes) for t in batch.targets]
    for label, metric in setup.metrics.items():
        if map_maker.method is None and Requirement.METHOD in metric.card.needs:
            continue  # a reference map has none
        size = _comparison_size(setup, batch, metric)
        if size not in resized:
            resized[size] = resize_maps(maps, size, setup.plan.protocol.upsampling)
        measurement = measure(setup, batch, map_maker, metric, resized[size])
        records += [{**about[i], **values} for i, values in _values(label, metric, measurement)]
    return records


def normalize_maps(maps: Float[Tensor, "pairs r c"], how: str) -> Float[Tensor, "pairs r c"]:
    """Return maps as a protocol normalizes them, each by its own values: `none`, `minmax` or `max`."""
    return maps if how == "none" else normalize(maps, signed=how == "max")


def _comparison_size(setup: ModelSetup, batch: SampleBatch, metric: Metric) -> tuple[int, int]:
    """Return the size at which a metric compares maps: metrics that run the model need its input size."""
    if Requirement.MODEL in metric.card.needs:
        return batch.input_size
    return setup.plan.protocol.size or batch.input_size


def _values(label: str, metric: Metric, measurement: Measurement) -> Iterator[tuple[int, Record]]:
    """Yield the position of a target with its value of the metric, then of each part of it."""
    columns = {label: (measurement.value, measurement.curves.get(""))}
    for part in metric.card.parts:
        if part in measurement.parts:
            columns[f"{label}.{part}"] = (measurement.parts[part], measurement.curves.get(part))
    for name, (values, curves) in columns.items():
        lines = None if curves is None else curves.float().tolist()
        for i, value in enumerate(values.tolist()):
            if math.isfinite(value):
                curve = None if lines is None else lines[i]
                yield i, {"metric": name, "value": value, "error": None, "curve": curve}
            else:
                reason = measurement.reasons.get(i, "the metric gives no number")
                yield i, {"metric": name, "value": None, "error": reason, "curve": None}


def model_records(setup: ModelSetup, batch: SampleBatch) -> list[Record]:
    """Return logit, probability and rank of each target's class, and whether the prediction is a class that is shown.

    An empty list for a model without classes.

    Raises:
        NonFiniteError: When the model gives NaN or infinity for an image.
    """
    output = batch.output  # raises for an image for which the model gives NaN, also where there are no classes
    if Capability.LOGITS not in setup.model.capabilities:
        return []
    logits = class_logits(output).float()
    probabilities = setup.model.probabilities(logits)
    predictions = logits.argmax(1).tolist()
    records = []
    for target in batch.targets:
        logit = logits[target.row, target.class_index]
        labels = batch.samples[target.row][1].labels
        correct = None
        if setup.classes is not None and labels:
            correct = float(predictions[target.row] in {setup.classes[label] for label in labels})
        values: dict[str, float | None] = {"logit": logit.item()}
        if not setup.model.structure.regression:  # quantities have neither probability nor rank
            values |= {
                "probability": probabilities[target.row, target.class_index].item(),
                "rank": float(1 + int((logits[target.row] > logit).sum())),
                "correct": correct,
            }
        for name, value in values.items():
            records.append(_identify(setup, batch, target, "", metric=f"model.{name}", value=value))
    return records


def failed_records(setup: ModelSetup, method: str, index: int, sample: str, reason: str) -> list[Record]:
    """Return records of an image that gives no map: one for each metric."""
    about = {
        **_dataset_columns(setup),
        "sample": sample,
        "index": index,
        "target": "",
        "entry": f"{sample}#",
        "method": method,
    }
    metrics = list(setup.metrics) if method else [""]
    return [{**about, "metric": metric, "error": reason} for metric in metrics]


def skipped_record(summary: ModelSummary, data: str, split: str, method: str) -> Record:
    """Return the record of a method that cannot serve a model, with the reason."""
    return {
        "model": summary.label,
        "data": data,
        "split": split,
        "sample": "",
        "index": -1,
        "target": "",
        "entry": "",
        "method": method,
        "metric": "",
        "error": summary.skipped[method],
    }


def map_records(
    setup: ModelSetup, batch: SampleBatch, map_maker: MapMaker, maps: Float[Tensor, "pairs r c"]
) -> list[Record]:
    """Return maps for galleries: float16, at most `STORED_CELLS` a side, divided by their largest magnitude."""
    if not setup.plan.protocol.keep_maps:
        return []
    maps = maps[: len(batch.targets)].float()
    factor = max(1.0, max(maps.shape[1:]) / STORED_CELLS)
    rows, cols = (max(1, round(side / factor)) for side in maps.shape[1:])
    small = torch.nn.functional.adaptive_avg_pool2d(maps[:, None], (rows, cols))[:, 0] if factor > 1 else maps
    small = small / small.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    stored = small.half().cpu().numpy()
    return [
        {
            "model": setup.label,
            "sample": batch.samples[target.row][1].id,
            "entry": _entry_id(batch, target),
            "method": map_maker.label,
            "rows": rows,
            "cols": cols,
            "map": stored[i].tobytes(),
        }
        for i, target in enumerate(batch.targets)
    ]


def image_records(setup: ModelSetup, batch: SampleBatch) -> list[Record]:
    """Return what the model sees of each image, and the union of all its objects."""
    if not setup.plan.protocol.keep_maps:
        return []
    records = []
    for row, (_, sample) in enumerate(batch.samples):
        view = setup.model.visible_region(sample.image)
        view.thumbnail((STORED_SIDE, STORED_SIDE), Image.Resampling.BICUBIC)
        mask = batch.union_mask(row)
        records.append(
            {
                "model": setup.label,
                "sample": sample.id,
                "jpeg": _encode(view.convert("RGB"), "jpeg", quality=85),
                "mask": None if mask is None else _encode(Image.fromarray(mask), "png"),
            }
        )
    return records


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _identify(setup: ModelSetup, batch: SampleBatch, target: ImageTarget, method: str, **values: Any) -> Record:
    """Return the columns that say which map a record is of, with further values."""
    index, sample = batch.samples[target.row]
    return {
        **_dataset_columns(setup),
        "sample": sample.id,
        "index": index,
        "target": target.name,
        "entry": _entry_id(batch, target),
        "method": method,
        **values,
    }


def _entry_id(batch: SampleBatch, target: ImageTarget) -> str:
    """Return the key of an image–target pair, the same for every method."""
    return f"{batch.samples[target.row][1].id}#{target.name}"


def _dataset_columns(setup: ModelSetup) -> Record:
    return {"model": setup.label, "data": setup.data.card.name, "split": setup.data.split}
