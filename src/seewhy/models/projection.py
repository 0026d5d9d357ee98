"""The projection of self-supervised training, kept as the embedding: what SwAV compares images by."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.errors import LayoutError, WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.checkpoints.reading import State
from seewhy.models.checkpoints.unwrapping import PROJECTION
from seewhy.models.heads import moved
from seewhy.models.structure import ReadOutput, Structure, read_tensor


class OnProjection(nn.Module):
    """A backbone, and the projection of its embedding to unit length.

    Args:
        backbone: The module.
        structure: Of the backbone: how its embedding is read.
        projection: From the embedding to the space in which training compares images.
    """

    def __init__(self, backbone: nn.Module, structure: Structure, projection: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self._read: ReadOutput = structure.read
        self._call = structure.call
        self.train(backbone.training)

    def forward(self, x: Tensor) -> Float[Tensor, "batch dim"]:
        """Return the projected embedding, of unit length."""
        embedding = self._read(self.backbone(x, **self._call), None).embedding
        if embedding is None:
            raise LayoutError("the backbone gives no embedding to project")
        return F.normalize(self.projection(embedding), dim=1)


def attach_projection(model: VisionModel, weights: State, source: str) -> VisionModel:
    """Return the model with the projection of a checkpoint, whose result is the embedding.

    Args:
        model: The backbone.
        weights: Of the projection, by `0.weight`, `1.running_mean` …
        source: Name of the file, for messages.

    Raises:
        WeightsError: The file has no projection, or it does not fit the backbone's embedding.
    """
    if not weights:
        raise WeightsError(f"{source} has no projection ({PROJECTION}*); leave projection out")
    projection = _sequential(weights, source)
    counters = {k: v for k, v in projection.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        projection.load_state_dict({**counters, **weights})
    except RuntimeError:
        raise WeightsError(f"the projection of {source} has an unknown form; leave projection out") from None
    first = projection[0]
    assert isinstance(first, nn.Linear)  # else `_sequential` would have raised
    module = OnProjection(model.module, model.structure, projection.eval().to(model.device))
    note = f"the embedding is the projection of training, {first.in_features} → {_outputs(projection)}, of unit length"
    structure = replace(
        moved(model.structure),
        head=None,
        read=read_tensor,
        note="; ".join(filter(None, (model.structure.note, note))),
    )
    return VisionModel(module, structure, name=model.name, preprocess=model.preprocess)


def _sequential(weights: State, source: str) -> nn.Sequential:
    """Return linear layers, batch norms, and a ReLU where a number is left out."""
    numbers = sorted({int(key.split(".")[0]) for key in weights if key.split(".")[0].isdigit()})
    if not numbers or numbers[0] != 0 or weights["0.weight"].ndim != 2:
        raise WeightsError(f"the projection of {source} has an unknown form; leave projection out")
    layers: list[nn.Module] = []
    for i in range(numbers[-1] + 1):
        weight = weights.get(f"{i}.weight", torch.zeros(0))
        if i not in numbers:
            layers.append(nn.ReLU())
        elif weight.ndim == 2:
            layers.append(nn.Linear(weight.shape[1], weight.shape[0], bias=f"{i}.bias" in weights))
        else:
            layers.append(nn.BatchNorm1d(len(weight)))
    return nn.Sequential(*layers)


def _outputs(projection: nn.Sequential) -> int:
    return [layer.out_features for layer in projection if isinstance(layer, nn.Linear)][-1]
