"""The last block of a transformer for its class token alone.

Where the head reads the class token only, one row of the last attention reaches the score. Queries, keys and values are
affine in the tokens, so the projections are read out of the module once, by what it makes of a basis, and the row is
computed from tokens: q·K_i = (W_kᵀ q)·T_i + constant, Σ_i p_i V_i = W_v Σ_i p_i T_i + b_v. Nothing else is known of the
module; whether it really is affine, and treats each token by itself, is tested on tokens of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from seewhy.models.instrument.attention import open_multihead, sdpa_arguments
from seewhy.models.instrument.hooks import Stop, replaced_forward

_SCALE = 1024.0
"""What basis vectors are multiplied by (a power of two), so that a bias does not cost their digits."""
_TOLERANCE = 1e-4
"""Largest error of the affine maps on tokens of the image, relative; half precision gets 8 of its steps."""

_MIXING = ("conv1d", "conv2d", "conv3d", "scaled_dot_product_attention", "multi_head_attention_forward")


class NoClassRow(Exception):  # noqa: N818 (not an error: the whole block is run instead)
    """The last block cannot be run for its class token alone; the message says why."""


@dataclass(frozen=True)
class Projections:
    """Affine maps of an attention module, from a token to query, key and value of each head.

    Attributes:
        query: W_q, (heads, head_dim, dim).
        key: W_k.
        value: W_v.
        value_bias: b_v, (heads, head_dim).
        scale: What scores are multiplied by.
        fits: Whether tokens of the image are projected so: else the module is not affine, or not the same everywhere.
    """

    query: Float[Tensor, "heads head_dim dim"]
    key: Float[Tensor, "heads head_dim dim"]
    value: Float[Tensor, "heads head_dim dim"]
    value_bias: Float[Tensor, "heads head_dim"]
    scale: float
    fits: Tensor


Attend = Callable[[Float[Tensor, "rows heads head_dim"], Projections], Float[Tensor, "rows heads head_dim"]]
"""From the queries of the class tokens and the projections to the mixed values."""


class RowAttention:
    """An attention module that runs on the class token and one more, with the values of all tokens.

    Args:
        module: The attention of the last block.

    Attributes:
        projections: What was read out of it; None before the first run.
        mixed: The mixed values of the last run, (rows, heads, 2, head_dim), a leaf.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.projections: Projections | None = None
        self.mixed: Tensor | None = None

    @contextmanager
    def replaced(self, attend: Attend, tokens: Float[Tensor, "batch tokens dim"]) -> Iterator[None]:
        """In the block, the attention runs on (rows, 2, dim), and `attend` mixes values for the first of each two.

        Args:
            attend: Called once, in the forward, outside of autograd; what follows has gradients from its result on.
            tokens: Tokens of the image, on which the projections are tested.

        Raises:
            NoClassRow: The attention does not fit.
        """
        forward, guard = self._module.forward, _OneToken()
        inner = open_multihead(self._module) if isinstance(self._module, nn.MultiheadAttention) else forward

        def mix(call: dict[str, Any]) -> Tensor:
            assert self.projections is not None  # read before
            queries = _queries(call, 2)[:, :, 0]
            mixed = attend(queries, self.projections).to(queries.dtype)
            torch.set_grad_enabled(True)  # as `cut`: gradients from here on; the mode from before returns at the end
            self.mixed = mixed[:, :, None].repeat(1, 1, 2, 1).requires_grad_()
            return self.mixed.clone()  # an operation in place must not reach the leaf

        def run(*args: Any, **kwargs: Any) -> Any:
            values = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
            if not values or any(value is not values[0] for value in values):
                raise NoClassRow("the attention gets more than tokens: a mask, or positions")
            guard.is_on = False
            if self.projections is None:
                self.projections = _projections(inner, args, kwargs, values[0], tokens)
            mode = _Fused(mix)
            with mode:
                result = inner(*args, **kwargs)
            if mode.calls != 1:
                raise NoClassRow("the attention is not one call of the fused kernel")
            guard.is_on = True
            return result

        with ExitStack() as stack:
            for module in self._module.modules():
                if isinstance(module, nn.MultiheadAttention) and module is not self._module:
                    stack.enter_context(replaced_forward(module, open_multihead(module)))
            stack.enter_context(replaced_forward(self._module, run))
            stack.enter_context(guard)
            yield


class _OneToken(TorchFunctionMode):
    """Refuses, in a run of class tokens alone, what would have looked at the other tokens as well.

    Raises:
        NoClassRow: The model has another attention, or a convolution, in or above its last block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_on = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "") if self.is_on else ""
        first = args[0] if args else None
        over_tokens = name == "softmax" and isinstance(first, Tensor) and first.ndim > 2
        if over_tokens or name in _MIXING:
            raise NoClassRow(f"the last block has {name} beside its attention, or above it")
        return func(*args, **(kwargs or {}))


class _Fused(TorchFunctionMode):
    """Puts something in the place of the fused attention kernel."""

    def __init__(self, replace: Callable[[dict[str, Any]], Tensor]) -> None:
        super().__init__()
        self._replace = replace
        self.calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = sdpa_arguments(func, args, kwargs or {})
        if call is None:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self._replace(call)


def _queries(call: dict[str, Any], tokens: int) -> Tensor:
    """Return the queries of a plain call of the kernel.

    Raises:
        NoClassRow: It has a mask, shares keys between heads, or does not attend over the tokens.
    """
    if call.get("attn_mask") is not None or call.get("is_causal") or call.get("enable_gqa") or call.get("dropout_p"):
        raise NoClassRow("the attention has a mask, or heads that share keys")
    q, k, v = call["query"], call["key"], call["value"]
    if q.ndim != 4 or q.shape[2] != tokens or k.shape != q.shape or v.shape != q.shape:
        raise NoClassRow("the attention does not attend over all tokens, head by head")
    return q


@torch.no_grad()
def _projections(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor, tokens: Tensor
) -> Projections:
    """Read the projections out of an attention module, and test them on some tokens of the first image."""
    dim = tokens.shape[-1]
    some = tokens[0, [0, tokens.shape[1] // 2, -1]].to(rows.dtype)
    basis = torch.eye(dim, dtype=rows.dtype, device=rows.device) * _SCALE
    probe = torch.cat([torch.zeros_like(some[:1]), basis, some])[None]
    calls: list[dict[str, Any]] = []

    def stop(call: dict[str, Any]) -> Tensor:
        calls.append(call)
        raise Stop

    probed = tree_map(lambda value: probe if value is rows else value, (args, kwargs))
    try:
        with _Fused(stop):
            forward(*probed[0], **probed[1])
    except Stop:
        pass
    except RuntimeError as error:  # positions or biases for a fixed number of tokens
        raise NoClassRow(f"the attention is made for a fixed number of tokens ({error})") from error
    if not calls:
        raise NoClassRow("the attention is not one call of the fused kernel")
    (call,) = calls
    _queries(call, probe.shape[1])
    found = [_affine(call[name][0], probe[0], dim) for name in ("query", "key", "value")]
    scale = call.get("scale")
    scale = 1 / math.sqrt(call["query"].shape[-1]) if scale is None else scale
    fits = torch.stack([fits for _, _, fits in found]).all()
    return Projections(found[0][0], found[1][0], found[2][0], found[2][1], scale, fits)


def _affine(values: Float[Tensor, "heads probes head_dim"], probe: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight and bias of the map from a probe's tokens to these values, and whether it holds for the others."""
    bias = values[:, 0]
    weight = (values[:, 1 : dim + 1] - bias[:, None]).mT / _SCALE
    error = (values[:, dim + 1 :] - (probe[dim + 1 :] @ weight.mT + bias[:, None])).abs().amax()
    tolerance = max(_TOLERANCE, 8 * torch.finfo(values.dtype).eps)
    return weight, bias, error <= tolerance * values[:, dim + 1 :].abs().amax()
