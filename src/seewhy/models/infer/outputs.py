"""Inference of what an unknown module returns (class scores or an embedding) and of its classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.errors import LayoutError, UnknownNameError
from seewhy.models.infer.trace import Call, Trace
from seewhy.models.structure import ReadOutput, read_tensor
from seewhy.targets import Output

EMBEDDING_NOTE = (
    "the result is taken for an embedding, as it does not come out of a linear "
    "layer; if it holds class scores say wrap(module, output='logits')"
)


OUTPUTS = ("logits", "regression", "embedding")
"""What a module can return."""

BINARY_NOTE = (
    "the one output is taken for the logit of a yes-or-no question; "
    "if it is a quantity say wrap(module, output='regression')"
)


@dataclass(frozen=True)
class OutputHints:
    """The user's hints about the result; None where there is none.

    Attributes:
        head: The module from embedding to logits.
        output: What the module returns, "logits", "regression" or "embedding".
        read: From what the module returns and the head's input to an `Output`.
        named: Whether class names were given.
    """

    head: str | nn.Module | None = None
    output: str | None = None
    read: ReadOutput | None = None
    named: bool = False

    def __post_init__(self) -> None:
        if self.output not in (None, *OUTPUTS):
            raise UnknownNameError("output", str(self.output), OUTPUTS)


@dataclass(frozen=True)
class OutputSpec:
    """Reading of the result: where the scores and the embedding are.

    Attributes:
        result: The logits, or the embedding where there are none.
        pooled: What the score depends on: the head's input, because a fresh head may be zero and hide all below.
        read: As in `Structure`.
        head: As in `Structure`.
        has_logits: As in `Structure`.
        has_embedding: As in `Structure`.
        note: As in `Structure`.
    """

    result: Tensor
    pooled: Tensor
    read: ReadOutput
    head: str | None
    has_logits: bool
    has_embedding: bool
    note: str = ""

    @property
    def classes(self) -> int | None:
        """The number of logits."""
        return self.result.shape[1] if self.has_logits else None


def infer_output(trace: Trace, hints: OutputHints) -> OutputSpec:
    """Tell what the traced result is.

    Raises:
        LayoutError: It is no tensor, or not one vector for each image.
        UnknownNameError: The head that the user named did not run, or ran more than once.
    """
    head = None if hints.output == "embedding" else _find_head(trace, hints)
    if hints.read is not None:
        return _read_by(hints.read, hints, head, trace)
    if not isinstance(trace.raw, Tensor):
        read_tensor(trace.raw, None)
    raw: Tensor = trace.raw
    if raw.ndim != 2:
        raise LayoutError(
            f"the module returns shape {tuple(raw.shape)}, not (batch, classes); make it so: "
            "wrap(module, read=lambda raw, embedding: Output(logits=…, embedding=embedding))"
        )
    if head is None and hints.output in (None, "embedding") and not hints.named:
        note = "" if hints.output else EMBEDDING_NOTE
        return OutputSpec(raw, raw, read_tensor, head=None, has_logits=False, has_embedding=True, note=note)
    return OutputSpec(
        raw,
        _pooled(head, raw),
        read_logits,
        head=head.name if head else None,
        has_logits=True,
        has_embedding=head is not None,
        note=BINARY_NOTE if raw.shape[1] == 1 and hints.output is None else "",
    )


def read_logits(raw: Any, embedding: Tensor | None) -> Output:
    """Read a result that is the logits, whether or not there is a head."""
    return Output(logits=raw, embedding=embedding)


def _read_by(read: ReadOutput, hints: OutputHints, head: Call | None, trace: Trace) -> OutputSpec:
    output = read(trace.raw, head.inputs[0].flatten(1) if head else None)
    if not isinstance(output, Output):
        raise LayoutError(f"read= gave {type(output).__name__}; return seewhy.targets.Output(logits=…, embedding=…)")
    has_logits = output.logits is not None and hints.output != "embedding"
    result = output.logits if has_logits else output.embedding
    if result is None or result.ndim != 2:
        shape = "nothing" if result is None else f"shape {tuple(result.shape)}"
        raise LayoutError(f"read= gave {shape}; return logits (batch, classes) or an embedding (batch, dim)")
    return OutputSpec(
        result,
        _pooled(head, result) if has_logits else result,
        read,
        head=head.name if head else None,
        has_logits=has_logits,
        has_embedding=output.embedding is not None,
    )


def _pooled(head: Call | None, result: Tensor) -> Tensor:
    return head.inputs[0] if head and head.inputs and head.inputs[0].requires_grad else result


def _find_head(trace: Trace, hints: OutputHints) -> Call | None:
    """Return the linear layer that gives the result, or from which a softmax or sigmoid makes it; or what was named."""
    calls = trace.single_calls()
    if hints.head is not None:
        for call in calls:
            if hints.head in (call.name, call.module):
                return call
        name = hints.head if isinstance(hints.head, str) else type(hints.head).__name__
        raise UnknownNameError("head", name, [c.name for c in calls])
    results = _tensors(trace.raw)
    for call in reversed(calls):
        value = call.value if isinstance(call.module, nn.Linear) else None
        if value is not None and value.ndim == 2 and any(_is_made_from(value, result) for result in results):
            return call
    return None


def _is_made_from(logits: Tensor, result: Tensor) -> bool:
    """Tell whether a result is these logits, or the probabilities or log-probabilities that they mean."""
    if logits.shape != result.shape or logits.dtype != result.dtype:
        return False
    forms: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda t: t,
        lambda t: t.softmax(-1),
        lambda t: t.log_softmax(-1),
        torch.sigmoid,
    )
    return any(torch.allclose(form(logits), result, atol=1e-6, equal_nan=True) for form in forms)


def _tensors(raw: Any) -> list[Tensor]:
    """Return all tensors in nested mappings, tuples and lists."""
    if isinstance(raw, Tensor):
        return [raw]
    if isinstance(raw, Mapping):
        return [tensor for part in raw.values() for tensor in _tensors(part)]
    if isinstance(raw, (tuple, list)):
        return [tensor for part in raw for tensor in _tensors(part)]
    return []
