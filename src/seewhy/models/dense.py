"""Readers of segmentation models and object detectors: from what the libraries return to an `Output`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seewhy.errors import LayoutError
from seewhy.targets import Detections, Output


def read_segmentation(raw: Any, _: Tensor | None = None) -> Output:
    """Read class scores for each pixel, (B, classes, rows, cols).

    A tensor, or a mapping that has it as `logits` (transformers) or `out` (torchvision).

    Raises:
        LayoutError: There is no such tensor.
    """
    value = raw
    if not isinstance(raw, Tensor):
        value = next((field_of(raw, name) for name in ("logits", "out") if field_of(raw, name) is not None), None)
    if not isinstance(value, Tensor) or value.ndim != 4:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(raw).__name__
        raise LayoutError(
            f"{got} does not hold class scores (batch, classes, rows, cols); "
            "say where they are: read=lambda raw, _: Output(segmentation=raw[…])"
        )
    return Output(segmentation=value)


def read_detections(raw: Any, _: Tensor | None = None) -> Output:
    """Read boxes with their scores.

    A list with a dict of `boxes`, `labels` and `scores` for each image (torchvision; boxes in pixels), or a mapping
    with `logits` (B, boxes, classes + 1; the last is "no object") and `pred_boxes` (B, boxes, 4; center and size as
    fractions), as DETR and YOLOS of transformers give; or a tensor (B, 4 + classes, boxes), alone or first in a tuple,
    with center and size in pixels and then the score of each class, as YOLOv8 and later of ultralytics give.

    Raises:
        LayoutError: It is neither.
    """
    logits, boxes = field_of(raw, "logits"), field_of(raw, "pred_boxes")
    if isinstance(logits, Tensor) and isinstance(boxes, Tensor):
        center, size = boxes[..., :2], boxes[..., 2:]
        corners = torch.cat([center - size / 2, center + size / 2], -1)
        return Output(detections=Detections(corners, logits.softmax(-1)[..., :-1]))
    if isinstance(raw, Sequence) and raw and all(isinstance(each, Mapping) and "boxes" in each for each in raw):
        return Output(detections=_stacked(raw))
    table = raw[0] if isinstance(raw, Sequence) and raw else raw
    if isinstance(table, Tensor) and table.ndim == 3 and 4 < table.shape[1] < table.shape[2]:
        center, size = table[:, :2].mT, table[:, 2:4].mT
        return Output(detections=Detections(torch.cat([center - size / 2, center + size / 2], -1), table[:, 4:].mT))
    raise LayoutError(
        f"{_form(table)} does not hold detections as torchvision, transformers or ultralytics give them; "
        "say where they are: read=lambda raw, _: Output(detections=Detections(boxes, scores))"
    )


def _form(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _stacked(images: Sequence[Mapping[str, Tensor]]) -> Detections:
    """Stack the boxes of all images, with a column of scores for each class that is detected anywhere."""
    most = max(len(each["boxes"]) for each in images)
    classes = max((int(each["labels"].max()) + 1 for each in images if len(each["labels"])), default=0)
    boxes, scores = [], []
    for each in images:
        n = len(each["boxes"])
        # one-hot rows, by comparison, because F.one_hot takes no empty tensor
        is_class = each["labels"][:, None] == torch.arange(classes, device=each["labels"].device)
        boxes.append(F.pad(each["boxes"], (0, 0, 0, most - n)))
        scores.append(F.pad(is_class * each["scores"][:, None], (0, 0, 0, most - n)))
    return Detections(torch.stack(boxes), torch.stack(scores))


def field_of(raw: Any, name: str) -> Any:
    """Return a part of a mapping or of an object by its name; None if it has none."""
    return raw.get(name) if isinstance(raw, Mapping) else getattr(raw, name, None)
