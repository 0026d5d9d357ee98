"""Let torchvision be imported beside a torch build that its compiled operators do not load with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def define_missing_operators() -> torch.library.Library | None:
    """Define the operators whose schemas torchvision needs at import, if its library does not load.

    torchvision registers a fake kernel for `nms` at import, even where its library did not load; that needs the schema.

    Returns:
        The definitions, which live as long as this object; None where nothing is missing.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        for compiled in Path(spec.origin).parent.glob("_C*.*"):
            torch.ops.load_library(compiled)
    except OSError:
        pass
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
