"""Transformer blocks with global attention, by what they compute."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seewhy.models.infer.evidence import Evidence
from seewhy.models.infer.trace import AttentionCall, Call, token_axes
from seewhy.models.structure import Block


@dataclass(frozen=True)
class TracedBlock:
    """A transformer block in a trace.

    Attributes:
        block: The names of the block, its first norm and its attention.
        call: The call of the block.
        norm: The call of its first norm.
    """

    block: Block
    call: Call
    norm: Call


def find_blocks(evidence: Evidence) -> list[TracedBlock]:
    """Find the blocks with global attention and a norm before it; of a pyramid, those at its top."""
    attention_calls = evidence.trace.attention_calls
    attended_inside: dict[int, int] = {}
    for attention in attention_calls:
        for call in attention.stack:
            attended_inside[id(call)] = attended_inside.get(id(call), 0) + 1
    single_attention = {key for key, count in attended_inside.items() if count == 1}
    found = (_block_around(evidence, attention, single_attention) for attention in attention_calls)
    blocks = [block for block in found if block is not None]
    # one grid for all
    return [block for block in blocks if token_axes(block.call.shape) == token_axes(blocks[-1].call.shape)]


def find_norms(evidence: Evidence) -> list[Call]:
    """Find the norms before global attention, of tokens that all information passes, also outside of blocks."""
    norms: dict[int, Call] = {}
    for attention in evidence.trace.attention_calls:
        before = [
            call
            for call in evidence.calls
            if call.end < attention.time
            and (axes := token_axes(call.shape))
            and axes.tokens == attention.tokens
            and call.inputs
            and _norms(call, call.inputs[0])
            and evidence.takes_bottleneck(call)
        ]
        norms.update({id(call): call for call in before[-1:]})
    return list(norms.values())


def _block_around(evidence: Evidence, attention: AttentionCall, single_attention: set[int]) -> TracedBlock | None:
    """Return the outermost call around this attention alone that takes tokens, norms them first, and gives tokens."""
    single_calls = set(map(id, evidence.calls))
    for depth, call in enumerate(attention.stack):
        if id(call) not in single_attention & single_calls:
            continue
        if not evidence.is_token_to_token(call, attention.tokens):
            continue
        norm = next((c for c in evidence.calls if call.start < c.start and _norms(c, call.inputs[0])), None)
        if norm is None or not norm.name.startswith(f"{call.name}."):
            continue
        inner = [c for c in attention.stack[depth + 1 :] if id(c) in single_calls and c.start > norm.end]
        if inner:
            return TracedBlock(Block(call.name, norm.name, inner[0].name), call, norm)
    return None


def _norms(call: Call, tensor: Tensor) -> bool:
    """Tell whether the call is a norm of this very tensor."""
    is_norm = "norm" in type(call.module).__name__.lower()
    return is_norm and bool(call.inputs) and call.inputs[0] is tensor and call.shape == tuple(tensor.shape)
