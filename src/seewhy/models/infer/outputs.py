"""What an unknown module returns: class scores or an embedding, and which of its parts is the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.errors import LayoutError, UnknownNameError
from seewhy.models.infer.trace import Call, Trace
from seewhy.models.structure import read_tensor
from seewhy.targets import Output

Read = Callable[[Any, Tensor | None], Output]


@dataclass(frozen=True)
class OutputHints:
    """What the user said of the result, where it is not None; `named`: whether class names were given."""

    head: str | nn.Module | None = None
    output: str | None = None
    read: Read | None = None
    named: bool = False

    def __post_init__(self) -> None:
        if self.output not in (None, "logits", "embedding"):
            raise UnknownNameError("output", str(self.output), ("logits", "embedding"))


@dataclass(frozen=True)
class Outcome:
    """How to read the result.

    Attributes:
        result: the logits, or the embedding where there are none.
        pooled: what the score depends on: the head's input, because a fresh head may be zero and hide all below.
        read, head, has_logits, has_embedding, note: as in `Structure`.
    """

    result: Tensor
    pooled: Tensor
    read: Read
    head: str | None
    has_logits: bool
    has_embedding: bool
    note: str = ""

    @property
    def classes(self) -> int | None:
        """The number of logits."""
        return self.result.shape[1] if self.has_logits else None


def outcome(seen: Trace, said: OutputHints) -> Outcome:
    """What the traced result is.

    Raises:
        LayoutError: it is no tensor, or not one vector for each image.
        UnknownNameError: the head that the user named did not run, or ran more than once.
    """
    head = None if said.output == "embedding" else _head(seen, said)
    if said.read is not None:
        return _read_by(said, head, seen)
    if not isinstance(seen.raw, Tensor):
        read_tensor(seen.raw, None)
    if seen.raw.ndim != 2:
        raise LayoutError(
            f"the module returns shape {tuple(seen.raw.shape)}, not (batch, classes); make it so: "
            "wrap(module, read=lambda raw, embedding: Output(logits=…, embedding=embedding))"
        )
    if head is None and said.output != "logits" and not said.named:
        note = (
            ""
            if said.output
            else (
                "the result is taken for an embedding, as it does not come out of a linear "
                "layer; if it holds class scores say wrap(module, output='logits')"
            )
        )
        return Outcome(seen.raw, seen.raw, read_tensor, None, False, True, note)
    return Outcome(seen.raw, _pooled(head, seen.raw), read_logits, head and head.name, True, head is not None)


def read_logits(raw: Tensor, embedding: Tensor | None) -> Output:
    """The result is the logits, whether or not there is a head."""
    return Output(logits=raw, embedding=embedding)


def _read_by(said: OutputHints, head: Call | None, seen: Trace) -> Outcome:
    output = said.read(seen.raw, head.inputs[0].flatten(1) if head else None)
    if not isinstance(output, Output):
        raise LayoutError(f"read= gave {type(output).__name__}; return seewhy.targets.Output(logits=…, embedding=…)")
    has_logits = output.logits is not None and said.output != "embedding"
    result = output.logits if has_logits else output.embedding
    if result is None or result.ndim != 2:
        got = "nothing" if result is None else f"shape {tuple(result.shape)}"
        raise LayoutError(f"read= gave {got}; logits have the shape (batch, classes), embeddings (batch, dim)")
    pooled = _pooled(head, result) if has_logits else result
    return Outcome(result, pooled, said.read, head and head.name, has_logits, output.embedding is not None)


def _pooled(head: Call | None, result: Tensor) -> Tensor:
    return head.inputs[0] if head and head.inputs and head.inputs[0].requires_grad else result


def _head(seen: Trace, said: OutputHints) -> Call | None:
    """The linear layer that gives the result, or from which a softmax or sigmoid makes it; or what the user named."""
    once = seen.once()
    if said.head is not None:
        named = [c for c in once if said.head in (c.name, c.module)]
        if not named:
            raise UnknownNameError(
                "head", said.head if isinstance(said.head, str) else type(said.head).__name__, [c.name for c in once]
            )
        return named[0]
    linear = [c for c in once if isinstance(c.module, nn.Linear) and len(c.shape) == 2]
    results = _tensors(seen.raw)
    return next((c for c in reversed(linear) if any(_comes_from(c.value, r) for r in results)), None)


def _comes_from(value: Tensor, result: Tensor) -> bool:
    if value.shape != result.shape or value.dtype != result.dtype:
        return False
    made = (value, value.softmax(-1), value.log_softmax(-1), value.sigmoid())
    return any(torch.allclose(m, result, atol=1e-6, equal_nan=True) for m in made)


def _tensors(raw: Any) -> list[Tensor]:
    if isinstance(raw, Tensor):
        return [raw]
    parts = raw.values() if isinstance(raw, Mapping) else raw if isinstance(raw, (tuple, list)) else []
    return [t for part in parts for t in _tensors(part)]
