"""Put a linear head of a file, or of a fitted classifier, on a model: probes, and DINO's and DINOv2's own heads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seewhy.core.io import first_line
from seewhy.core.preprocess import Preprocess
from seewhy.core.tensor_files import read_info
from seewhy.errors import LayoutError, WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.checkpoints import read_state
from seewhy.models.checkpoints.unwrapping import CONTAINERS
from seewhy.models.fingerprint import fingerprint
from seewhy.models.structure import Structure

HeadLike = Any
"""A file (`.pth`, `.safetensors`, `.npz`), a folder of `seewhy train head`, an `nn.Linear`, a state dict, or a fitted
linear classifier of sklearn."""

PICKLES = (".pkl", ".pickle", ".joblib")


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier.

    Attributes:
        weight: (classes, inputs).
        bias: (classes,), or None.
        names: Of the classes, where the head brings them.
        key: The name of the weight in its file.
        source: Where it comes from, for people.
        info: What `seewhy train head` wrote beside the weights: the backbone's fingerprint, its preprocessing.
    """

    weight: Tensor
    bias: Tensor | None
    names: tuple[str, ...] | None = None
    key: str = "weight"
    source: str = "the head"
    info: Mapping[str, Any] = field(default_factory=dict)

    def linear(self) -> nn.Linear:
        """Return it as a module, in eval mode."""
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None)
        layer.weight.data = self.weight.float()
        if self.bias is not None:
            layer.bias.data = self.bias.float()
        return layer.eval()


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def read_head(head: HeadLike) -> LinearHead:
    """Return a linear head; no code in a file is ever run.

    Raises:
        WeightsError: It holds no linear classifier, more than one layer, or cannot be read safely.
    """
    if isinstance(head, LinearHead):
        return head
    if isinstance(head, (str, os.PathLike)):
        return _from_file(Path(head).expanduser())
    if isinstance(head, nn.Module):
        return _from_state(head.state_dict(), type(head).__name__)
    if isinstance(head, Mapping):
        return _from_state(head, "the head")
    if hasattr(head, "coef_"):
        return _from_arrays(head.coef_, head.intercept_, getattr(head, "classes_", None), type(head).__name__)
    raise WeightsError(
        f"a {type(head).__name__} is no linear head; pass a file, an nn.Linear, a state dict, or a fitted classifier "
        "of scikit-learn (of a pipeline its last step, fitted on the embeddings as they are)"
    )


def _from_file(path: Path) -> LinearHead:
    if path.is_dir():
        path = path / "head.safetensors"
    if path.suffix.lower() in PICKLES:
        raise WeightsError(
            f"{path} is a pickle, and reading it would run code; save the numbers: "
            f"numpy.savez('{path.stem}.npz', coef=clf.coef_, intercept=clf.intercept_, classes=clf.classes_)"
        )
    if path.suffix.lower() != ".npz":
        head = _from_state(read_state(path), str(path))
        info = read_info(path) if path.suffix.lower() == ".safetensors" else {}
        return replace(head, names=tuple(info["class_names"]), info=info) if "class_names" in info else head
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {key.rstrip("_"): arrays[key] for key in arrays.files}
    except Exception as error:  # zip and npy each have their own ways to be broken
        raise WeightsError(
            f"{path} is no .npz of numbers ({first_line(error, 100)}); save it with numpy.savez"
        ) from None
    weight, bias = (
        next((found[k] for k in keys if k in found), None) for keys in (("coef", "weight"), ("intercept", "bias"))
    )
    if weight is None:
        raise WeightsError(
            f"{path} has no array 'coef' or 'weight' (it has {', '.join(found)}); save it with numpy.savez"
        )
    return _from_arrays(weight, bias, found.get("classes"), str(path))


def _from_arrays(weight: Any, bias: Any, classes: Any, source: str) -> LinearHead:
    """Return a head as scikit-learn keeps it; of two classes there is one row, for the second one."""
    matrix = torch.as_tensor(np.asarray(weight, dtype=np.float32))
    matrix = matrix[None] if matrix.ndim == 1 else matrix
    shift = None if bias is None else torch.as_tensor(np.asarray(bias, dtype=np.float32)).reshape(-1)
    if shift is not None and len(shift) != len(matrix):
        shift = shift.expand(len(matrix)).clone()
    names = None if classes is None else tuple(map(str, np.asarray(classes).tolist()))
    if len(matrix) == 1 and names is not None and len(names) == 2:  # softmax of (0, z) is sigmoid of z
        matrix = torch.cat([torch.zeros_like(matrix), matrix])
        shift = None if shift is None else torch.cat([torch.zeros_like(shift), shift])
    return LinearHead(matrix, shift, names, "coef", source)


def _from_state(content: Mapping[str, Any], source: str) -> LinearHead:
    while not any(isinstance(value, Tensor) for value in content.values()):
        key = next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            raise WeightsError(f"{source} has no weights; save head.state_dict()")
        content = content[key]
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    weights = [key for key, value in tensors.items() if key.rpartition(".")[2] == "weight" and value.ndim == 2]
    if len(weights) != 1:
        raise WeightsError(
            f"{source} has {len(weights)} linear layers ({', '.join(weights[:3])}), not one; a head of several "
            "is built in Python: seewhy.wrap(nn.Sequential(backbone, head))"
        )
    (key,) = weights
    return LinearHead(tensors[key], tensors.get(key.removesuffix("weight") + "bias"), None, key, source)


# ── attaching ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def attach_head(model: VisionModel, head: HeadLike) -> VisionModel:
    """Return the model with a linear head, which reads what its number of inputs tells.

    As many inputs as the embedding: the embedding. Of ViTs, with the width of the tokens as the unit: 2 are the class
    token and the mean of the patch tokens (DINOv2; DINO's ViT-B interleaves them), 4 the class tokens of the last four
    blocks (DINO's ViT-S), 5 those and the mean of the patch tokens (DINOv2's heads on four layers).

    Args:
        model: A model, with a classifier (which is replaced) or without.
        head: See `read_head`.

    Raises:
        WeightsError: It is no linear head, or reads something else, or was trained on another backbone.
    """
    linear = read_head(head)
    module, structure, preprocess = model.module, model.structure, model.preprocess
    trained_on = linear.info.get("backbone")
    if trained_on is not None and trained_on != fingerprint(module):
        raise WeightsError(
            f"{linear.source} was trained on another backbone ({linear.info.get('model', trained_on)}, other weights "
            f"than this {model.name}); open the model that it was trained on"
        )
    if linear.info.get("preprocess") and isinstance(preprocess, Preprocess):
        preprocess = Preprocess.from_dict(linear.info["preprocess"])
    inputs = linear.weight.shape[1]
    old = module.get_submodule(structure.head) if structure.head else None
    names = linear.names
    if old is not None:
        if not isinstance(old, nn.Linear) or old.in_features != inputs:
            raise WeightsError(_other_width(linear, getattr(old, "in_features", "other")))
        module.set_submodule(str(structure.head), linear.linear().to(model.device))
        structure = replace(structure, classes=len(linear.weight))
        note = f"the head is {linear.source}"
    else:
        module, structure, note = _behind(model, linear)
    structure = replace(structure, note="; ".join(filter(None, (structure.note, note))))
    return VisionModel(module, structure, name=model.name, preprocess=preprocess, class_names=names)


def _behind(model: VisionModel, linear: LinearHead) -> tuple[nn.Module, Structure, str]:
    width, inputs = _embedding_width(model), linear.weight.shape[1]
    structure, layer = model.structure, linear.linear().to(model.device)
    if inputs == width:
        module: nn.Module = OnEmbedding(model.module, structure, layer)
        return module, moved(structure), f"the head is {linear.source}, on the embedding"
    token = getattr(model.module, "embed_dim", width)
    reads = _reads(inputs, token, linear.key)
    if reads is None or not structure.blocks or not hasattr(model.module, "forward_intermediates"):
        raise WeightsError(_other_width(linear, width))
    return (
        OnTokens(model.module, layer, *reads).eval(),
        replace(moved(structure), class_token=True, reads_patches=bool(reads[1])),
        f"the head is {linear.source}, on the class tokens of the last {reads[0]} block{'s' * (reads[0] > 1)}"
        + (" and the mean patch token" if reads[1] else ""),
    )


def _reads(inputs: int, token: int, key: str) -> tuple[int, str] | None:
    """Return of how many last blocks a head reads the class token, and how the mean patch token is put beside."""
    if inputs % token:
        return None
    # DINO keeps its head as `linear`, and stacks class and mean token in the last axis before it flattens them
    is_dino = key.endswith("linear.weight") and key != "linear_head.weight"
    known = {2: (1, "interleaved" if is_dino else "behind"), 4: (4, ""), 5: (4, "behind")}
    return known.get(inputs // token)


def _other_width(linear: LinearHead, width: object) -> str:
    return (
        f"{linear.source} has {linear.weight.shape[1]} inputs, and the model's embedding has {width}; pass the "
        "backbone that it was trained on, or build both in Python and use seewhy.wrap(module)"
    )


def _embedding_width(model: VisionModel) -> int:
    rows, cols = getattr(model.preprocess, "size", (224, 224))
    channels = getattr(model.preprocess, "channels", 3)
    output = model.forward_checked(torch.zeros(1, channels, rows, cols, device=model.device, dtype=model.dtype))
    if output.embedding is None:
        raise LayoutError(f"{model.name} has no embedding that a head could read; wrap the module with its head")
    return output.embedding.shape[1]


def moved(structure: Structure) -> Structure:
    """Return the structure of a module that has become `backbone` of another, with a head behind it."""
    inner = structure.below("backbone.")
    return Structure(
        source=inner.source,
        stages=inner.stages,
        cam_layer=inner.cam_layer,
        blocks=inner.blocks,
        prefix_tokens=inner.prefix_tokens,
        class_token=inner.class_token,
        reads_patches=inner.reads_patches,
        patch_size=inner.patch_size,
        pads=inner.pads,
        head="head",
        has_gradients=inner.has_gradients,
        note=inner.note,
    )


class OnEmbedding(nn.Module):
    """A backbone, and a linear head on its embedding.

    Args:
        backbone: The module.
        structure: Of the backbone: how its embedding is read.
        head: The linear layer.
    """

    def __init__(self, backbone: nn.Module, structure: Structure, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._read = structure.read
        self._call = structure.call
        self.train(backbone.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        embedding = self._read(self.backbone(x, **self._call), None).embedding
        if embedding is None:
            raise LayoutError("the backbone gives no embedding; wrap the module with its head")
        return self.head(embedding)


class OnTokens(nn.Module):
    """A ViT of timm, and a linear head on class tokens of its last blocks (Caron et al., DINO; Oquab et al., DINOv2).

    Args:
        backbone: The ViT.
        head: The linear layer.
        blocks: Of how many last blocks the class token is read, after the final norm.
        mean: Where the mean of the last patch tokens goes: nowhere (""), "behind", or "interleaved" with them.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, blocks: int, mean: str = "") -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.blocks = blocks
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        backbone: Any = self.backbone
        pairs = backbone.forward_intermediates(
            x, self.blocks, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
        )
        features = torch.cat([prefix[:, 0] for _, prefix in pairs], -1)
        if self.mean == "behind":
            features = torch.cat([features, pairs[-1][0].mean(1)], -1)
        elif self.mean:
            features = torch.stack([features, pairs[-1][0].mean(1)], -1).flatten(1)
        return self.head(features)
