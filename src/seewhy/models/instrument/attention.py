"""Reading (and differentiating) attention matrices out of fused kernels.

`scaled_dot_product_attention` never forms the matrix. While one attention module runs, a `TorchFunctionMode`
(local to this thread and block, nothing is patched) sees the call with its q and k, and forms what is asked for;
the layer's own fused result goes on unchanged, so the logits are exactly the same. Modules that form the matrix
themselves are read at their softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seewhy.errors import LayoutError
from seewhy.models.instrument.hooks import replaced_forward

Receive = Callable[[int, Tensor], None]
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}


class _Interceptor(TorchFunctionMode):
    """Passes every attention matrix formed while `block` is set to `receive`."""

    def __init__(self, receive: Receive, *, rows: slice, differentiable: bool, batch: int) -> None:
        super().__init__()
        self.receive, self.rows, self.differentiable, self.batch = receive, rows, differentiable, batch
        self.block: int | None = None

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.block is None:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._sdpa(func, args, kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAX and result.ndim in (3, 4) and result.shape[-1] == result.shape[-2]:
            matrix = result if result.ndim == 4 else result.unflatten(0, (self.batch, -1))
            if self.differentiable and result.ndim == 3:
                # the view is what goes on, so that the gradient passes through the matrix that was handed out
                result = matrix.flatten(0, 1)
            self.receive(self.block, matrix if self.differentiable else matrix[..., self.rows, :])
        return result

    def _sdpa(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("enable_gqa"):
            groups = given["query"].shape[-3] // given["key"].shape[-3]
            given["key"] = given["key"].repeat_interleave(groups, -3)
            given["value"] = given["value"].repeat_interleave(groups, -3)
        if self.differentiable:
            matrix = attention_matrix(**_matrix_arguments(given))
            self.receive(self.block, matrix)
            return matrix.to(given["value"].dtype) @ given["value"]
        self.receive(self.block, attention_matrix(**_matrix_arguments(given), rows=self.rows))
        return func(*args, **kwargs)


def _matrix_arguments(given: dict) -> dict:
    if given.get("is_causal"):
        raise LayoutError("this attention is causal (a text model?); seewhy explains vision encoders")
    return {"query": given["query"], "key": given["key"], "mask": given.get("attn_mask"), "scale": given.get("scale")}


def attention_matrix(
    query: Float[Tensor, "*batch heads queries dim"],
    key: Float[Tensor, "*batch heads keys dim"],
    mask: Tensor | None = None,
    scale: float | None = None,
    rows: slice = slice(None),
) -> Float[Tensor, "*batch heads rows keys"]:
    """softmax(q kᵀ · scale + mask) for the query rows asked for; `scale` is 1/√dim unless given."""
    scores = query[..., rows, :] @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if mask is not None:
        mask = mask[..., rows, :] if mask.shape[-2] > 1 else mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def _open_multihead(mha: nn.MultiheadAttention) -> Callable[..., tuple[Tensor, None]]:
    """A `forward` for self-attention that calls the fused kernel where the mode can see it.

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
            raise LayoutError("only plain self-attention can be read out of nn.MultiheadAttention")
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
    modules: dict[int, nn.Module],
    receive: Receive,
    *,
    batch: int,
    rows: slice = slice(None),
    differentiable: bool = False,
) -> Iterator[None]:
    """In the block, `receive(block, matrix)` is called when block `block` attends; matrix (B, heads, rows, N).

    Args:
        modules: the attention module of each block to be read.
        receive: called once per block and forward.
        batch: B, to undo the flattening of (B, heads) in models that do it.
        rows: the query rows to form; ignored when differentiable.
        differentiable: the result goes through the matrix that `receive` got (the unfused path, for these
            modules only), so gradients with respect to it exist.

    Raises:
        LayoutError: a module did not run, or without forming attention in a way that can be read.
    """
    interceptor = _Interceptor(receive, rows=rows, differentiable=differentiable, batch=batch)
    seen: set[int] = set()
    outer = interceptor.receive

    def counted(block: int, matrix: Tensor) -> None:
        seen.add(block)
        outer(block, matrix)

    interceptor.receive = counted

    def before(block: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            interceptor.block = block

        return hook

    def after(*_: Any) -> None:
        block, interceptor.block = interceptor.block, None
        if block not in seen:
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
                    stack.enter_context(replaced_forward(inner, _open_multihead(inner)))
        stack.enter_context(interceptor)
        yield
    if set(modules) - seen:
        raise LayoutError(
            f"the attention of block {min(set(modules) - seen)} did not run; "
            "say where it is: wrap(module, structure=Structure(…))"
        )
