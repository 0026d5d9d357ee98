"""From maps and measurements to rows of the run's tables."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seewhy.bench.execute.scoring import measured
from seewhy.bench.samples import Chunk, Entry
from seewhy.core.cards import Capability, Requirement
from seewhy.core.maps import resize_maps
from seewhy.metrics import Measurement, Metric

if TYPE_CHECKING:
    from seewhy.bench.setup import Stage, Tool

CELLS = 56  # a stored map's longer side
SIDE = 224  # a stored picture's longer side
Row = dict[str, Any]


def metric_rows(stage: Stage, chunk: Chunk, tool: Tool, maps: Float[Tensor, "pairs r c"], seconds: float) -> list[Row]:
    """A row for each entry and metric, and one for each part of a metric."""
    rows: list[Row] = []
    fitted: dict[tuple[int, int], Tensor] = {}
    about = [
        _row(stage, chunk, entry, tool.label, seconds=seconds, passes=float(tool.passes)) for entry in chunk.entries
    ]
    for label, metric in stage.metrics.items():
        own = chunk.input_size
        size = own if Requirement.MODEL in metric.card.needs else stage.plan.protocol.size or own
        if size not in fitted:
            fitted[size] = resize_maps(maps, size, stage.plan.protocol.upsampling)
        found = measured(stage, chunk, tool, metric, fitted[size])
        rows += [{**about[i], **values} for i, values in _values(label, metric, found)]
    return rows


def _values(label: str, metric: Metric, found: Measurement) -> Iterator[tuple[int, Row]]:
    """By position of the entry."""
    columns = {label: (found.value, found.curves.get(""))}
    columns |= {
        f"{label}.{part}": (found.parts[part], found.curves.get(part))
        for part in metric.card.parts
        if part in found.parts
    }
    for name, (values, curves) in columns.items():
        numbers, lines = values.tolist(), None if curves is None else curves.float().tolist()
        for i, value in enumerate(numbers):
            known = math.isfinite(value)
            why = None if known else found.reasons.get(i, "the metric gives no number")
            yield (
                i,
                {
                    "metric": name,
                    "value": value if known else None,
                    "error": why,
                    "curve": lines[i] if lines is not None and known else None,
                },
            )


def model_rows(stage: Stage, chunk: Chunk) -> list[Row]:
    """Logit, probability and rank of each entry's class, and whether the model's answer is a class that is shown."""
    if Capability.LOGITS not in stage.model.capabilities:
        chunk.output  # noqa: B018 (a picture for which the model gives NaN is found out here)
        return []
    logits = chunk.output.logits.float()
    chances = stage.model.probabilities(logits)
    answers = logits.argmax(1).tolist()
    rows = []
    for entry in chunk.entries:
        own = logits[entry.row, entry.cls]
        rank = 1 + int((logits[entry.row] > own).sum())
        labels = chunk.items[entry.row][1].labels
        shown = None if stage.classes is None or not labels else {stage.classes[label] for label in labels}
        values = {
            "logit": own.item(),
            "probability": chances[entry.row, entry.cls].item(),
            "rank": float(rank),
            "correct": None if shown is None else float(answers[entry.row] in shown),
        }
        rows += [_row(stage, chunk, entry, "", metric=f"model.{name}", value=value) for name, value in values.items()]
    return rows


def failed_rows(stage: Stage, method: str, number: int, sample: str, why: str) -> list[Row]:
    """Rows of a picture that gives none: one for each metric."""
    metrics = list(stage.metrics) if method else [""]
    return [
        {
            **_about(stage),
            "sample": sample,
            "index": number,
            "target": "",
            "entry": f"{sample}#",
            "method": method,
            "metric": metric,
            "error": why,
        }
        for metric in metrics
    ]


def map_rows(stage: Stage, chunk: Chunk, tool: Tool, maps: Float[Tensor, "pairs r c"]) -> list[Row]:
    """Maps for galleries: half precision, at most `CELLS` a side, the largest magnitude of each scaled to 1."""
    maps = maps[: len(chunk.entries)].float()
    factor = max(1.0, max(maps.shape[1:]) / CELLS)
    size = [max(1, round(side / factor)) for side in maps.shape[1:]]
    small = torch.nn.functional.adaptive_avg_pool2d(maps[:, None], size)[:, 0] if factor > 1 else maps
    small = small / small.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    stored = small.half().cpu().numpy()
    return [
        {
            "model": stage.label,
            "sample": chunk.items[entry.row][1].id,
            "entry": _entry_id(chunk, entry),
            "method": tool.label,
            "rows": size[0],
            "cols": size[1],
            "map": stored[i].tobytes(),
        }
        for i, entry in enumerate(chunk.entries)
    ]


def image_rows(stage: Stage, chunk: Chunk) -> list[Row]:
    """What the model sees of each picture, and the outline of all its objects."""
    if not stage.plan.protocol.keep_maps:
        return []
    rows = []
    for i, (_, item) in enumerate(chunk.items):
        view = stage.model.visible_region(item.image)
        view.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        mask = chunk.outline(i)
        rows.append(
            {
                "model": stage.label,
                "sample": item.id,
                "jpeg": _bytes(view.convert("RGB"), "jpeg", quality=85),
                "mask": None if mask is None else _bytes(Image.fromarray(mask), "png"),
            }
        )
    return rows


def _bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _row(stage: Stage, chunk: Chunk, entry: Entry, method: str, **values: Any) -> Row:
    number, item = chunk.items[entry.row]
    return {
        **_about(stage),
        "sample": item.id,
        "index": number,
        "target": entry.name,
        "entry": _entry_id(chunk, entry),
        "method": method,
        **values,
    }


def _entry_id(chunk: Chunk, entry: Entry) -> str:
    return f"{chunk.items[entry.row][1].id}#{entry.name}"


def _about(stage: Stage) -> Row:
    return {"model": stage.label, "data": stage.data.card.name, "split": stage.data.split}
