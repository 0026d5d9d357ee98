"""Inference of what an unknown module returns (class scores or an embedding) and of its classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.core.cards import Capability
from seewhy.errors import LayoutError, UnknownNameError
from seewhy.models.dense import field_of, read_detections, read_segmentation
from seewhy.models.infer.trace import BATCH, Call, Trace
from seewhy.models.structure import ReadOutput, read_tensor
from seewhy.targets import Output

OUTPUTS = ("logits", "probabilities", "regression", "embedding", "segmentation", "detections")
"""What a user can say that a module returns."""
TINY = 1e-30
"""Instead of a probability of 0, whose logarithm is not finite."""

EMBEDDING_NOTE = (
    "the result is taken for an embedding, as it does not come out of a linear "
    "layer; if it holds class scores say wrap(module, output='logits')"
)
BINARY_NOTE = (
    "the one output is taken for the logit of a yes-or-no question; "
    "if it is a quantity say wrap(module, output='regression')"
)
MEAN_NOTE = "the embedding is the mean of the last hidden states, as there is no pooled vector; read= settles another"
NO_BOX_NOTE = (
    "no box is found in images of noise, so its layers could not be traced: methods that need one are told it with "
    "layer=, and how its output lies with layout="
)
SAY_OUTPUT = "say wrap(module, output='logits'), 'probabilities' or 'embedding'"


@dataclass(frozen=True)
class OutputHints:
    """The user's hints about the result; None where there is none.

    Attributes:
        head: The module from embedding to logits.
        output: What the module returns, one of `OUTPUTS`.
        read: From what the module returns and the head's input to an `Output`.
        named: Whether class names were given.
        multi_label: Whether each score stands for itself.
    """

    head: str | nn.Module | None = None
    output: str | None = None
    read: ReadOutput | None = None
    named: bool = False
    multi_label: bool = False

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
        logits_of_head: As in `Structure`.
        multi_label: As in `Structure`.
        has_segmentation: As in `Structure`.
        boxes_in: As in `Structure`.
        note: As in `Structure`.
    """

    result: Tensor
    pooled: Tensor
    read: ReadOutput
    head: str | None
    has_logits: bool
    has_embedding: bool
    logits_of_head: bool = False
    multi_label: bool = False
    has_segmentation: bool = False
    boxes_in: str | None = None
    note: str = ""

    @property
    def classes(self) -> int | None:
        """The number of logits, of the image or of each pixel."""
        return self.result.shape[1] if self.has_logits or self.has_segmentation else None


def infer_output(trace: Trace, hints: OutputHints) -> OutputSpec:
    """Tell what the traced result is.

    Raises:
        LayoutError: It is no tensor and has none in a known field, is not one vector for each image, or could be
            scores as well as an embedding.
        UnknownNameError: The head that the user named did not run, or ran more than once.
    """
    if hints.read is not None:
        return _read_by(hints.read, hints, trace)
    dense = hints.output if hints.output in ("segmentation", "detections") else _dense_kind(trace.raw, hints)
    if dense:
        return _answers_by_place(trace.raw, dense)
    result, field = _result(trace.raw, hints)
    if result.ndim != 2:
        pixels = {
            3: "; boxes: wrap(module, output='detections')",
            4: "; class scores for each pixel: wrap(module, output='segmentation')",
            5: "; class scores for each voxel: read=lambda raw, _: Output(logits=raw.flatten(2).mean(2))",
        }.get(result.ndim, "")
        raise LayoutError(
            f"the module returns shape {tuple(result.shape)}, not (batch, classes); make it so: "
            f"wrap(module, read=lambda raw, embedding: Output(logits=…, embedding=embedding)){pixels}"
        )
    if hints.output == "embedding" or (hints.output is None and field in _VECTORS):
        return _embedding(result, field)
    heads, form = _find_heads(trace, hints, [result])
    if heads:
        return _classifier(result, field, heads, form, hints)
    if hints.output == "probabilities" or (hints.output in (None, "logits") and _are_distributions(result)):
        read = Reader("log_odds" if hints.multi_label else "logs", field)
        note = "the scores are the logarithms of the probabilities that the module returns"
        return OutputSpec(result, result, read, None, has_logits=True, has_embedding=False, note=note)
    if hints.output in ("logits", "regression") or hints.named or field == "logits":
        return OutputSpec(result, result, Reader("logits", field), None, has_logits=True, has_embedding=False)
    _refuse_doubtful(trace, result, field)
    return _embedding(result, field, MEAN_NOTE if field == _MAPS else EMBEDDING_NOTE)


# ── segmentation models and object detectors ──────────────────────────────────────────────────────────────────────────
def _dense_kind(raw: Any, hints: OutputHints) -> str:
    """Return `segmentation` or `detections` where the form of the result, or names of classes, leave no doubt."""
    if isinstance(raw, Sequence) and raw and all(isinstance(each, Mapping) and "boxes" in each for each in raw):
        return "detections"
    if field_of(raw, "pred_boxes") is not None:
        return "detections"
    scores = raw if isinstance(raw, Tensor) and hints.named else field_of(raw, "logits")
    if not isinstance(raw, Tensor) and scores is None:
        scores = field_of(raw, "out")
    return "segmentation" if isinstance(scores, Tensor) and scores.ndim == 4 else ""


def _answers_by_place(raw: Any, kind: str) -> OutputSpec:
    """Read class scores for each pixel, or boxes.

    Raises:
        LayoutError: The result is neither.
    """
    if kind == "segmentation":
        scores = read_segmentation(raw).require(Capability.SEGMENTATION)
        return OutputSpec(scores, scores, read_segmentation, None, False, False, has_segmentation=True)
    scores = read_detections(raw).require(Capability.DETECTIONS)
    boxes_in = "fractions" if field_of(raw, "pred_boxes") is not None else "pixels"
    note = "" if scores.numel() and scores.requires_grad else NO_BOX_NOTE
    return OutputSpec(scores, scores, read_detections, None, False, False, boxes_in=boxes_in, note=note)


# ── which part of what a module returns ───────────────────────────────────────────────────────────────────────────────
_SCORES = ("logits",)
_VECTORS = ("image_embeds", "pooler_output")
_MAPS = "last_hidden_state"


def _result(raw: Any, hints: OutputHints) -> tuple[Tensor, str]:
    """Return the tensor that counts, and the field that it is in; empty: it is the whole result."""
    if isinstance(raw, Tensor):
        return raw, ""
    for name in _VECTORS if hints.output == "embedding" else (*_SCORES, *_VECTORS):
        value = field_of(raw, name)
        if isinstance(value, Tensor) and (name in _SCORES or value.flatten(1).ndim == 2):
            return (value if name in _SCORES else value.flatten(1)), name
    hidden = field_of(raw, _MAPS)
    if isinstance(hidden, Tensor) and hidden.ndim in (2, 3, 4):
        return _mean(hidden), _MAPS
    read_tensor(raw, None)
    raise AssertionError("a result that is no tensor was read as one")


def _mean(hidden: Tensor) -> Tensor:
    """Return the mean over tokens (batch, tokens, dim) or cells (batch, dim, rows, cols); a vector is one already."""
    if hidden.ndim == 2:
        return hidden
    return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))


@dataclass(frozen=True)
class Reader:
    """Reads what was found of a module's result; equal for equal findings, and can be pickled.

    Attributes:
        kind: `logits`, `embedding`, or of probabilities `logs` (softmax) and `log_odds` (sigmoid).
        field: The field of the result that counts; empty: the result is a tensor.
    """

    kind: str
    field: str = ""

    def __call__(self, raw: Any, embedding: Tensor | None) -> Output:
        """Return the output; see `seewhy.models.structure.ReadOutput`."""
        value = field_of(raw, self.field) if self.field else raw
        value = _mean(value) if self.field == _MAPS else value
        if self.kind == "embedding":
            return Output(embedding=value.flatten(1))
        if self.kind != "logits":
            odds = (1 - value).clamp(min=TINY).log() if self.kind == "log_odds" else 0
            value = value.clamp(min=TINY).log() - odds
        return Output(logits=value, embedding=embedding)


def _embedding(result: Tensor, field: str, note: str = "") -> OutputSpec:
    read = Reader("embedding", field)
    return OutputSpec(result, result, read, head=None, has_logits=False, has_embedding=True, note=note)


def _are_distributions(result: Tensor) -> bool:
    """Tell whether every row is a distribution over classes."""
    values = result.detach().float()
    sums = values.sum(1)
    return values.shape[1] > 1 and bool((values >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def _refuse_doubtful(trace: Trace, result: Tensor, field: str) -> None:
    """Raise where the result may hold class scores, although no linear layer gives it as it is."""
    values = result.detach().float()
    shape = f"(batch, {values.shape[1]})"
    if field in (*_VECTORS, _MAPS):
        return
    squashed = any("igmoid" in node.name() or "oftmax" in node.name() for node in trace.last_steps(result))
    if squashed and bool(((values >= 0) & (values <= 1)).all()):
        raise LayoutError(f"the result {shape} lies between 0 and 1, so it may hold probabilities; {SAY_OUTPUT}")
    norms = values.norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        return  # a vector of length one is compared with others
    for call in reversed(trace.calls):
        if isinstance(call.module, nn.Linear) and call.shape == tuple(result.shape):
            raise LayoutError(
                f"the result {shape} is made from what {call.name!r} gives, but is not the same, so it may hold "
                f"class scores or an embedding; {SAY_OUTPUT}"
            )


_ENDS = ("softmax", "log_softmax", "sigmoid")


# ── the classifier ────────────────────────────────────────────────────────────────────────────────────────────────────
def _classifier(result: Tensor, field: str, heads: list[Call], form: str, hints: OutputHints) -> OutputSpec:
    head = heads[0]
    note = BINARY_NOTE if result.shape[1] == 1 and hints.output is None and form == "same" else ""
    ends = hints.output != "regression" and form in _ENDS and isinstance(head.value, Tensor) and head.value.ndim == 2
    if ends:
        note = f"the module ends in a {form}; the scores are the logits below it"
    if len(heads) > 1:
        note = f"the logits are the mean of {len(heads)} heads; the embedding is what the first of them reads"
    return OutputSpec(
        result,
        _pooled(heads, result),
        Reader("logits", field),
        head=head.name,
        has_logits=True,
        has_embedding=True,
        logits_of_head=ends,
        multi_label=ends and form == "sigmoid",
        note=note,
    )


def _read_by(read: ReadOutput, hints: OutputHints, trace: Trace) -> OutputSpec:
    heads = [] if hints.output == "embedding" else _find_heads(trace, hints, _tensors(trace.raw))[0][:1]
    output = read(trace.raw, heads[0].inputs[0].flatten(1) if heads else None)
    if not isinstance(output, Output):
        raise LayoutError(f"read= gave {type(output).__name__}; return seewhy.targets.Output(logits=…, embedding=…)")
    for kind, value in (("segmentation", output.segmentation), ("detections", output.detections)):
        if value is not None:
            scores = output.require(Capability(kind))
            spec = OutputSpec(scores, scores, read, head=None, has_logits=False, has_embedding=False)
            if kind == "segmentation":
                return replace(spec, has_segmentation=True)
            return replace(spec, boxes_in="fractions")
    has_logits = output.logits is not None and hints.output != "embedding"
    result = output.logits if has_logits else output.embedding
    if result is None or result.ndim != 2:
        shape = "nothing" if result is None else f"shape {tuple(result.shape)}"
        raise LayoutError(f"read= gave {shape}; return logits (batch, classes) or an embedding (batch, dim)")
    return OutputSpec(
        result,
        _pooled(heads, result) if has_logits else result,
        read,
        head=heads[0].name if heads else None,
        has_logits=has_logits,
        has_embedding=output.embedding is not None,
    )


def _pooled(heads: list[Call], result: Tensor) -> Tensor:
    inputs = [head.inputs[0] for head in heads if head.inputs and head.inputs[0].requires_grad]
    if not inputs or len(inputs) < len(heads):
        return result
    return inputs[0] if len(inputs) == 1 else torch.cat([value.flatten(1) for value in inputs], 1)


def _find_heads(trace: Trace, hints: OutputHints, results: list[Tensor]) -> tuple[list[Call], str]:
    """Return the linear layer that gives the result, and in what form; several, if it is their mean; or the one named.

    Raises:
        UnknownNameError: The head that the user named did not run, or ran more than once.
    """
    calls = trace.single_calls()
    if hints.head is not None:
        for call in calls:
            if hints.head in (call.name, call.module):
                form = next((f for r in results if call.value is not None and (f := _form(call.value, r))), "")
                return [call], form
        name = hints.head if isinstance(hints.head, str) else type(hints.head).__name__
        raise UnknownNameError("head", name, [c.name for c in calls])
    linear = [c for c in calls if isinstance(c.module, nn.Linear) and c.value is not None and c.value.ndim == 2]
    for call in reversed(linear):
        for result in results:
            if call.value is not None and (form := _form(call.value, result)):
                return [call], form
    for result in results:
        together = [c for c in linear if c.shape == tuple(result.shape)]
        values = [c.value for c in together if c.value is not None]
        if len(values) > 1 and torch.allclose(torch.stack(values).mean(0), result, atol=1e-5):
            return together, "mean"
    return [], ""


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "same": lambda t: t,
    "softmax": lambda t: t.softmax(-1),
    "log_softmax": lambda t: t.log_softmax(-1),
    "sigmoid": torch.sigmoid,
}


def _form(logits: Tensor, result: Tensor) -> str:
    """Tell how a result is made from these logits: it is them, or the probabilities or log-probabilities they mean."""
    if logits.shape != result.shape or logits.dtype != result.dtype or logits.shape[0] != BATCH:
        return ""
    for name, form in _FORMS.items():
        if torch.allclose(form(logits), result, atol=1e-6, equal_nan=True):
            return name
    return ""


def _tensors(raw: Any) -> list[Tensor]:
    """Return all tensors in nested mappings, tuples and lists."""
    if isinstance(raw, Tensor):
        return [raw]
    if isinstance(raw, Mapping):
        return [tensor for part in raw.values() for tensor in _tensors(part)]
    if isinstance(raw, (tuple, list)):
        return [tensor for part in raw for tensor in _tensors(part)]
    return []
