"""The rules of Chefer et al. (2021), as their code has them: relevance itself goes down, to attention matrices.

z⁺ shares (α = 1, β = 0) in linear layers without their bias; a matrix product gives half to each factor, in
proportion; softmax, norms and activations hand relevance on whole; a residual sum shares out in proportion, and each
branch is then rescaled so that the two get |Σ a| : |Σ b| of what came. The second code, which they call the original
LRP (the partial LRP of their comparisons, and of the CDAM paper's), neither rescales nor joins the two parts of z⁺:
x⁺ w⁺ and x⁻ w⁻ each hand down all relevance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seewhy.errors import ModelError
from seewhy.methods.lrp.modes import RelevanceMode
from seewhy.methods.lrp.rules import CONVOLUTIONS, WeightedLayer
from seewhy.methods.lrp.sums import PASS, PRODUCTS
from seewhy.methods.lrp.token_rules import as_gate, is_gate
from seewhy.models.instrument.modes import Handler, Operation, is_tracked, with_backward

_MATRIX_PRODUCTS = ("matmul", "rmatmul", "bmm")
_REFUSED = (*CONVOLUTIONS, "scaled_dot_product_attention", "multi_head_attention_forward", "einsum", "baddbmm")


class CheferRules(RelevanceMode):
    """Their rules, for one forward down to the attention of a transformer's blocks.

    Args:
        original: Whether the rules are those of the code for the original LRP.

    Attributes:
        plain: While true, a backward gives the true gradient instead.
    """

    def __init__(self, original: bool = False) -> None:
        super().__init__()
        self.original = original
        self.plain = False
        self.handlers = {
            **dict.fromkeys((*PASS, "softmax"), self._by(_whole)),
            **dict.fromkeys(("add", "radd", "iadd"), self._by(self._residual_sum)),
            **dict.fromkeys(PRODUCTS, self._by(_scaling)),
            **dict.fromkeys(("mean", "sum"), self._by(_in_proportion)),
            **dict.fromkeys(_MATRIX_PRODUCTS, self._by(_matrix_product)),
            "linear": self._by(self._linear),
            **dict.fromkeys(_REFUSED, self.refuse),
        }

    def _by(self, rule: Rule) -> Handler:
        """Make a handler of a rule: from a call, the values that relevance goes to, and R to the relevance of each."""

        def handler(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            places = [place for place, argument in enumerate(args) if is_tracked(argument)]
            call = _Call(operation, args, kwargs, places, [is_gate(args[place]) for place in places])

            def backward(saved: tuple[Tensor, ...], upper: Tensor) -> Sequence[Tensor]:
                if self.plain:
                    leaves, out = call.again(saved)
                    return torch.autograd.grad(out, leaves, upper)
                return rule(call, saved, upper)

            result = with_backward(lambda: operation(*args, **kwargs), backward, *(args[place] for place in places))
            return as_gate(result) if operation.__name__.strip("_") == "sigmoid" else result

        return handler

    def _linear(self, call: _Call, values: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
        """R_i = x_i⁺ Σ_j w_ij⁺ R_j / z_j + x_i⁻ Σ_j w_ij⁻ R_j / z_j, z = Σ x⁺ w⁺ + x⁻ w⁻, the bias left out."""
        layer, _ = WeightedLayer.of_call(call.operation, call.args, call.kwargs)
        weights = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
        parts = values[0].clamp(min=0), values[0].clamp(max=0)
        sums = [part @ weight.mT for part, weight in zip(parts, weights, strict=True)]
        below = sums if self.original else [sums[0] + sums[1]] * 2
        each = zip(parts, weights, below, strict=True)
        return [torch.stack([part * (_safe_divide(upper, z) @ weight) for part, weight, z in each]).sum(0)]

    def _residual_sum(self, call: _Call, values: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
        """In proportion, then rescaled for each image; a constant gets nothing."""
        if len(values) == 1:
            return [upper.sum_to_size(values[0].shape)]
        shares = _in_proportion(call, values, upper)
        if self.original:
            return shares
        dims = tuple(range(1, upper.ndim))
        sums = [share.sum(dims, keepdim=True) for share in shares]
        total, whole = sums[0].abs() + sums[1].abs(), upper.sum(dims, keepdim=True)
        wanted = [_safe_divide(each.abs(), total) * whole for each in sums]
        return [share * _safe_divide(want, each) for share, want, each in zip(shares, wanted, sums, strict=True)]


@dataclass(frozen=True)
class _Call:
    """One call of an operation, where among its arguments relevance goes, and which of these are gates."""

    operation: Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    places: list[int]
    gates: list[bool]

    def again(self, values: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return leaves of the values, and the result of the call on them."""
        leaves = [value.detach().requires_grad_() for value in values]
        args = list(self.args)
        for place, leaf in zip(self.places, leaves, strict=True):
            args[place] = leaf
        with torch.enable_grad():
            return leaves, self.operation(*args, **self.kwargs)


Rule = Callable[[_Call, tuple[Tensor, ...], Tensor], Sequence[Tensor]]


def _whole(call: _Call, values: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
    return [upper]


def _scaling(call: _Call, values: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
    """Of a product with a constant or a gate (the scale of scores, a layer scale, σ in x σ(x)) the signal gets all."""
    if call.gates.count(False) != 1:
        raise ModelError(f"Chefer's LRP has no rule for {call.operation.__name__} of two signals; use rule='zplus'")
    zeros = torch.zeros_like(upper)
    each = zip(values, call.gates, strict=True)
    return [(zeros if gate else upper).sum_to_size(value.shape) for value, gate in each]


def _matrix_product(call: _Call, values: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
    """Each of two matrices gets half: R_A = A ⊙ (R/O Vᵀ) / 2."""
    return [share / 2 for share in _in_proportion(call, values, upper)]


def _in_proportion(call: _Call, values: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
    """Return x_i ∂z/∂x_i · R / z for each input of a function that is linear in each."""
    leaves, z = call.again(values)
    gradients = torch.autograd.grad(z, leaves, _safe_divide(upper, z.detach()))
    return [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]


def _safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b with 1e-9 added to the magnitude of b, and 0 where b is 0, as their code does it."""
    below = b + torch.where(b < 0, -1e-9, 1e-9).to(b)
    return torch.where(b == 0, 0, a / below)
