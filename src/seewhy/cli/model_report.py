"""A model's structure and capabilities as plain data."""

from __future__ import annotations

from typing import Any

import torch

from seewhy.core.preprocess import Preprocess
from seewhy.core.volumes import VolumePreprocess
from seewhy.methods import METHODS
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched


def model_report(model: VisionModel) -> dict[str, Any]:
    """Describe a model: layers with their grids, tokens, capabilities, and which methods support it.

    Runs one forward on an empty image of the model's own input size.

    Returns:
        Values that JSON knows; `methods` has the reason for which each method does not support the model (or "").
    """
    structure = model.structure
    size = tuple(getattr(model.preprocess, "size", None) or (224,) * structure.axes)
    x = torch.zeros(1, model.channels or 3, *size, device=model.device, dtype=model.dtype)
    layers = list(structure.stages)
    if structure.cam_layer and structure.cam_layer not in layers:
        layers.append(structure.cam_layer)
    with untouched(model.module):
        activations = model.activations(x, layers) if layers else {}
    output = model.forward_checked(x)
    return {
        "name": model.name,
        "source": structure.source,
        "input": list(size),
        "preprocess": _preprocessing(model)[0],
        "preprocess_origin": _preprocessing(model)[1],
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "capabilities": sorted(model.capabilities),
        "classes": model.classes,
        "embedding": None if output.embedding is None else output.embedding.shape[1],
        "grid": list(model.grid(size[0], size[1])) if structure.patch_size else None,
        "prefix_tokens": structure.prefix_tokens,
        "blocks": len(structure.blocks),
        "note": structure.note,
        "cam_layer": structure.cam_layer.name if structure.cam_layer else None,
        "stages": [
            {
                "name": layer.name,
                "layout": layer.layout,
                "channels": activations[layer.name].shape[1],
                "grid": list(activations[layer.name].shape[2:]),
            }
            for layer in layers
        ],
        "methods": {cls.card.name: cls.why_incompatible(model) for cls in METHODS.values()},
    }


def _preprocessing(model: VisionModel) -> tuple[str, str]:
    """Return all that happens to an image, and from where that is known."""
    if isinstance(model.preprocess, Preprocess | VolumePreprocess):
        return model.preprocess.describe(), model.preprocess.origin
    return "a function of its own", "the function"
