"""Reading (and differentiating) attention matrices out of fused kernels.

`scaled_dot_product_attention` never forms the matrix. While one attention module runs, a `TorchFunctionMode`
(local to this thread and block, nothing is patched) sees the call with its q and k, and forms what is asked for;
the layer's own fused result goes on unchanged, so the logits are exactly the same. Modules that form the matrix
themselves are read at their softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seewhy.errors import LayoutError
from seewhy.models.instrument.hooks import replaced_forward

AttentionReceiver = Callable[[int, Tensor], None]
"""Called with the number of a block and its attention matrix, (B, heads, rows, tokens)."""

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
_SDPA_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


# ── how attention shows in the calls of torch's functions (`infer.trace` looks for the same) ────────────────────────
def sdpa_arguments(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of a call of the fused attention kernel by name; None: the call is of something else."""
    if func is not F.scaled_dot_product_attention:
        return None
    return {**dict(zip(_SDPA_PARAMETERS, args, strict=False)), **kwargs}


def is_attention_softmax(func: Callable[..., Any], result: Any) -> bool:
    """Tell whether a call was the softmax of square matrices: (B, heads, N, N), or (B·heads, N, N)."""
    return func in _SOFTMAX and result.ndim in (3, 4) and result.shape[-1] == result.shape[-2]


class _AttentionReader(TorchFunctionMode):
    """Hands every attention matrix formed while `block` is set to `receive`."""

    def __init__(self, receive: AttentionReceiver, *, rows: slice, differentiable: bool, batch: int) -> None:
        super().__init__()
        self.receive = receive
        self.rows = rows
        self.differentiable = differentiable
        self.batch = batch
        self.block: int | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.block is None:
            return func(*args, **kwargs)
        sdpa = sdpa_arguments(func, args, kwargs)
        if sdpa is None:
            result = func(*args, **kwargs)
            return self._read_softmax(result, self.block) if is_attention_softmax(func, result) else result
        matrix_arguments = _matrix_arguments(sdpa)
        if self.differentiable:
            matrix = attention_matrix(**matrix_arguments)
            self.receive(self.block, matrix)
            value = _repeat_groups(sdpa["value"], sdpa)
            return matrix.to(value.dtype) @ value
        self.receive(self.block, attention_matrix(**matrix_arguments, rows=self.rows))
        return func(*args, **kwargs)

    def _read_softmax(self, result: Tensor, block: int) -> Tensor:
        matrix = result if result.ndim == 4 else result.unflatten(0, (self.batch, -1))
        if not self.differentiable:
            self.receive(block, matrix[..., self.rows, :])
            return result
        self.receive(block, matrix)
        # the view is what goes on, so that the gradient passes through the matrix that was handed out
        return matrix.flatten(0, 1) if result.ndim == 3 else result


def _matrix_arguments(sdpa: Mapping[str, Any]) -> dict[str, Any]:
    if sdpa.get("is_causal"):
        raise LayoutError(
            "this attention is causal (a text model?); seewhy explains vision encoders, so wrap the image encoder"
        )
    return {
        "query": sdpa["query"],
        "key": _repeat_groups(sdpa["key"], sdpa),
        "mask": sdpa.get("attn_mask"),
        "scale": sdpa.get("scale"),
    }


def _repeat_groups(value: Tensor, sdpa: Mapping[str, Any]) -> Tensor:
    """Repeat keys or values for the query heads that share them (grouped-query attention)."""
    if not sdpa.get("enable_gqa"):
        return value
    return value.repeat_interleave(sdpa["query"].shape[-3] // value.shape[-3], -3)


def attention_matrix(
    query: Float[Tensor, "*batch heads queries dim"],
    key: Float[Tensor, "*batch heads keys dim"],
    mask: Tensor | None = None,
    scale: float | None = None,
    rows: slice = slice(None),
) -> Float[Tensor, "*batch heads rows keys"]:
    """Compute softmax(q kᵀ · scale + mask) for the query rows asked for.

    Args:
        query: Queries.
        key: Keys.
        mask: True (or 0) where a query may attend; -inf, or False, where it may not.
        scale: The factor of the scores; None: 1/√dim.
        rows: The query rows to form.

    Returns:
        Rows of probabilities.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query[..., rows, :] @ key.transpose(-2, -1) * scale
    if mask is not None:
        mask = mask[..., rows, :] if mask.shape[-2] > 1 else mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def open_multihead(mha: nn.MultiheadAttention) -> Callable[..., tuple[Tensor, None]]:
    """Make a `forward` for self-attention that calls the fused kernel where the mode can see it.

    `nn.MultiheadAttention` hides the call: in inference it has a kernel of its own, and elsewhere
    `F.multi_head_attention_forward` runs out of a mode's sight.
    """

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        plain = mha.in_proj_weight is not None and mha.bias_k is None and not mha.add_zero_attn
        if key is not query or value is not query or key_padding_mask is not None or not plain:
            raise LayoutError(
                "only plain self-attention can be read out of nn.MultiheadAttention; "
                "use a method that needs no attention matrix: grad_cam, cdam"
            )
        x = query if mha.batch_first else query.transpose(0, 1)
        qkv = F.linear(x, mha.in_proj_weight, mha.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (mha.num_heads, -1)).transpose(1, 2) for t in qkv)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # True forbids here, and allows in the fused kernel
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (x.shape[0], mha.num_heads))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask).transpose(1, 2).flatten(2)
        out = mha.out_proj(mixed)
        return (out if mha.batch_first else out.transpose(0, 1)), None

    return forward


@contextmanager
def reading_attention(
    modules: Mapping[int, nn.Module],
    receive: AttentionReceiver,
    *,
    batch: int,
    rows: slice = slice(None),
    differentiable: bool = False,
) -> Iterator[None]:
    """Within the context, call `receive(block, matrix)` when a transformer block attends; (B, heads, rows, N).

    Args:
        modules: The attention module of each block to be read.
        receive: Called once per block and forward.
        batch: B, to undo the flattening of (B, heads) in models that do it.
        rows: The query rows to form; ignored when differentiable.
        differentiable: The result goes through the matrix that `receive` got (the unfused path, for these
            modules only), so gradients with respect to it exist.

    Raises:
        LayoutError: A module did not run, or ran without forming attention in a way that can be read.
    """
    blocks_read: set[int] = set()

    def receive_and_note(block: int, matrix: Tensor) -> None:
        blocks_read.add(block)
        receive(block, matrix)

    reader = _AttentionReader(receive_and_note, rows=rows, differentiable=differentiable, batch=batch)

    def before(block: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            reader.block = block

        return hook

    def after(*_: Any) -> None:
        block, reader.block = reader.block, None
        if block not in blocks_read:
            raise LayoutError(
                f"the attention of block {block} cannot be read (windowed, or a kernel of its own); "
                "use a method that needs no attention matrix: grad_cam, cdam"
            )

    with ExitStack() as stack:
        for block, module in modules.items():
            stack.callback(module.register_forward_pre_hook(before(block)).remove)
            stack.callback(module.register_forward_hook(after).remove)
            for inner in module.modules():
                if isinstance(inner, nn.MultiheadAttention):
                    stack.enter_context(replaced_forward(inner, open_multihead(inner)))
        stack.enter_context(reader)
        yield
    missing = set(modules) - blocks_read
    if missing:
        raise LayoutError(
            f"the attention of block {min(missing)} did not run; say where it is: wrap(module, structure=Structure(…))"
        )
