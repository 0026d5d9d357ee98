"""Fingerprints of encoders: a fitted explainer belongs to one architecture and to one set of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain

import torch
from torch import Tensor

from seewhy.errors import WeightsError
from seewhy.models.adapter import VisionModel


@dataclass(frozen=True)
class Fingerprint:
    """What is known of an encoder, without its weights.

    Attributes:
        name: The model's name, for messages.
        architecture: Digest of the names and shapes of its weights.
        weights: Digest of their values, as float32.
        dtype: The type in which they were when it was taken.
    """

    name: str
    architecture: str
    weights: str
    dtype: str

    @classmethod
    def of(cls, model: VisionModel) -> Fingerprint:
        """Take the fingerprint of a model; the classifier on top does not count, nor the device."""
        shapes, values = hashlib.sha256(), hashlib.sha256()
        for name, tensor in _trunk(model):
            line = f"{name} {tuple(tensor.shape)}\n".encode()
            shapes.update(line)
            values.update(line)
            values.update(_bytes(tensor))
        dtype = str(model.dtype).removeprefix("torch.")
        return cls(model.name, shapes.hexdigest()[:16], values.hexdigest()[:16], dtype)

    def as_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        return asdict(self)

    def check(self, model: VisionModel, source: object, weights: bool = True) -> None:
        """Check that a model is the encoder.

        Args:
            model: The model.
            source: What belongs to the encoder, for the message.
            weights: Whether the values of the weights must be the same, or only the architecture.

        Raises:
            WeightsError: It is another one.
        """
        found = Fingerprint.of(model)
        if found.architecture != self.architecture:
            raise WeightsError(
                f"{source} was fitted on {self.name}, and {model.name} is another architecture; load {self.name}, or "
                "fit it again"
            )
        if weights and found.weights != self.weights:
            rounded = found.dtype != self.dtype and found.dtype in ("float16", "bfloat16")
            how = f"in {found.dtype}, not {self.dtype}" if rounded else "with other weights"
            raise WeightsError(
                f"{source} was fitted on {self.name}, and here {model.name} is {how}; load the same weights"
                f"{f' in {self.dtype}' if rounded else ''}, or fit it again"
            )


def _trunk(model: VisionModel) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers below the head, in the module's own order."""
    head = model.structure.head
    for name, tensor in chain(model.module.named_parameters(), model.module.named_buffers()):
        if head is None or not name.startswith(f"{head}."):
            yield name, tensor


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu()
    flat = flat.float() if flat.is_floating_point() else flat
    return bytes(flat.contiguous().view(-1).view(torch.uint8).numpy().data)
