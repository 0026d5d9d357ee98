"""Models with new outputs: a head of fresh weights on a backbone, and the folders in which fine-tuned ones are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seewhy.core.preprocess import Preprocess
from seewhy.core.tensor_files import check_state, read_info, read_tensors
from seewhy.errors import LayoutError, WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.heads import LinearHead, attach_head

WEIGHTS = "model.safetensors"
KIND = "fine-tuned"


def with_outputs(model: VisionModel, names: Sequence[str], *, regression: bool = False, seed: int = 0) -> VisionModel:
    """Return the model with a fresh linear head; the module is shared, not copied.

    Args:
        model: A backbone, with a classifier (which is replaced) or without.
        names: Of the outputs: classes or quantities. Two classes have one logit, that of the second one.
        regression: Whether they are quantities.
        seed: Of the head's weights, drawn as torch's `nn.Linear` draws them.

    Raises:
        LayoutError: The model has no embedding that a head could read.
        WeightsError: Its classifier is no linear layer.
    """
    rows, cols = getattr(model.preprocess, "size", (224, 224))
    x = torch.zeros(1, model.channels or 3, rows, cols, device=model.device, dtype=model.dtype)
    embedding = model.forward_checked(x).embedding
    if embedding is None:
        raise LayoutError(f"{model.name} has no embedding that a head could read; take a model with one")
    outputs = 1 if len(names) == 2 and not regression else len(names)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        linear = nn.Linear(embedding.shape[1], outputs)
    source = "new, for quantities" if regression else "new"
    attached = attach_head(model, LinearHead(linear.weight.detach(), linear.bias.detach(), source=source))
    structure = replace(attached.structure, regression=regression, multi_label=False, has_logits=None)
    return VisionModel(
        attached.module, structure, name=model.name, preprocess=attached.preprocess, class_names=tuple(names)
    )


def finetuned_info(folder: Path) -> dict[str, Any]:
    """Return what a folder of `seewhy train finetune` says of its model; empty for other folders."""
    info = read_info(folder / WEIGHTS)
    return info if info.get("kind") == KIND else {}


def load_finetuned(folder: str | Path, model: VisionModel) -> VisionModel:
    """Put fine-tuned weights on a backbone.

    Args:
        folder: Of `seewhy train finetune`.
        model: A model of the same architecture; its own weights are overwritten.

    Raises:
        WeightsError: The folder holds no fine-tuned model, or one of another architecture.
    """
    path = Path(folder).expanduser() / WEIGHTS
    info = finetuned_info(path.parent)
    if not info:
        raise WeightsError(f"{path} is no model of `seewhy train finetune`; choose its folder")
    state, _ = read_tensors(path)
    made = with_outputs(model, info["outputs"], regression=info["regression"])
    check_state(state, made.module.state_dict(), path)
    made.module.load_state_dict(state)
    made.module.requires_grad_(False).eval()
    if info.get("preprocess"):
        made.preprocess = Preprocess.from_dict(info["preprocess"])
    made.structure = replace(made.structure, note=f"fine-tuned from {info['model']}")
    return made


def base_of(info: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return how the backbone of a fine-tuned model is opened.

    Args:
        info: See `finetuned_info`.
        folder: For the message.

    Raises:
        WeightsError: It was a module of somebody's own.
    """
    if not info.get("base"):
        raise WeightsError(
            f"{folder} was fine-tuned from a module made in Python ({info.get('model')}); make that module again and "
            "use seewhy.models.load_finetuned(folder, seewhy.wrap(module))"
        )
    return info["base"]
