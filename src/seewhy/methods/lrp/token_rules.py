"""LRP for transformers (AttnLRP): relevance divided by the value goes down, so that relevance is value × what arrives.

With R = x ⊙ G, most of the rules of AttnLRP are the plain gradient in G: the ε rule as ε → 0, sums, softmax (its
Taylor decomposition at x, proposition 3.1). Others need one factor. So no activation is ever divided by, but for
f(x)/x of an activation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seewhy.methods.lrp.modes import ACTIVATIONS, Ruled, Rules, depends
from seewhy.methods.lrp.rules import stabilized
from seewhy.models.instrument.attention import attention_matrix

LINEAR_RULES = ("epsilon", "zplus")

_LINEAR = ("linear", "conv1d", "conv2d", "conv3d")
_GATES = ("sigmoid", "tanh", "hardsigmoid", "rsqrt")
_PRODUCTS = ("matmul", "rmatmul", "bmm", "mul", "rmul", "imul")
_REFUSED = ("multi_head_attention_forward", "einsum", "baddbmm", "group_norm", "instance_norm", "normalize")


class TokenRules(Rules):
    """The rules of AttnLRP, for one forward. While `plain` is true, a backward gives the true gradient instead.

    Args:
        linear: the rule of layers with weights: `epsilon`, or `zplus` (α = 1, β = 0).
        epsilon: their stabilizer.
    """

    def __init__(self, linear: str = "epsilon", epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon, self.plain = epsilon, False
        self.table = {
            **dict.fromkeys(_LINEAR, self.epsilon_layer if linear == "epsilon" else self.zplus_layer),
            **dict.fromkeys(ACTIVATIONS, self.activation),
            **dict.fromkeys(_GATES, self.gate),
            **dict.fromkeys(_PRODUCTS, self.product),
            **dict.fromkeys(("add", "radd"), self.shifted),
            "layer_norm": self.layer_norm,
            "rms_norm": self.layer_norm,
            "scaled_dot_product_attention": self.attention,
            **dict.fromkeys(_REFUSED, self.refuse),
        }

    def _ruled(self, compute: Callable[..., Tensor], rule: Callable, *inputs: Tensor) -> Tensor:
        """`compute` of its inputs, with `rule` as its backward, or the true gradient while `plain`."""

        def backward(saved: tuple[Tensor, ...], upper: Tensor) -> tuple[Tensor, ...]:
            if not self.plain:
                return rule(*saved, upper)
            with torch.enable_grad():
                leaves = [t.detach().requires_grad_() for t in saved]
                return torch.autograd.grad(compute(*leaves), leaves, upper)

        return Ruled.apply(lambda: compute(*inputs), backward, *inputs)

    def epsilon_layer(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """R_i = Σ_j x_i w_ij / (z_j + ε sign z_j) R_j, z with its bias."""

        def compute(x: Tensor) -> Tensor:
            return func(x, *args[1:], **kwargs)

        def rule(x: Tensor, upper: Tensor) -> tuple[Tensor]:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                z = compute(leaf)
            size = z.detach().abs()
            return torch.autograd.grad(z, leaf, upper * size / (size + self.epsilon) if self.epsilon else upper)

        return self._ruled(compute, rule, args[0])

    def zplus_layer(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """R_i = Σ_j (x_i w_ij)⁺ / (Σ_i' (x_i' w_i'j)⁺ + b_j⁺) R_j."""
        given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)

        def compute(x: Tensor) -> Tensor:
            return func(x, weight, bias, *args[3:], **given)

        def rule(x: Tensor, upper: Tensor) -> tuple[Tensor]:
            with torch.enable_grad():
                up, down = (x.detach().clone().requires_grad_() for _ in range(2))
                positive = func(
                    up.clamp(min=0),
                    weight.clamp(min=0),
                    None if bias is None else bias.clamp(min=0),
                    *args[3:],
                    **given,
                )
                positive = positive + func(down.clamp(max=0), weight.clamp(max=0), None, *args[3:], **given)
            upper = upper * compute(x) / stabilized(positive.detach(), self.epsilon)
            return (sum(torch.autograd.grad(positive, (up, down), upper)),)

        return self._ruled(compute, rule, x)

    def activation(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """R_x = R_f(x), the identity rule: G_x = G f(x)/x."""

        def compute(x: Tensor) -> Tensor:
            return func(x, *args[1:], **kwargs)

        def rule(x: Tensor, upper: Tensor) -> tuple[Tensor]:
            return (upper * torch.where(x == 0, 0.0, compute(x) / torch.where(x == 0, 1.0, x)),)

        return self._ruled(compute, rule, args[0])

    def gate(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Something that may be a factor (then it takes no relevance: see `product`) or a result of its own (a pooler's
        tanh: then it passes on what it gets, as every activation does)."""
        return _marked(self.activation(func, args, kwargs))

    def shifted(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A sum keeps its gradient; a gate plus a constant is a gate (1 + tanh)."""
        result = func(*args, **kwargs)
        return _marked(result) if all(_is_gate(a) for a in args[:2] if depends(a)) else result

    def product(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A product of two things that both depend on the image: half the relevance to each (proposition 3.3).

        A gate takes none, so x σ(x) passes its relevance on as it is.
        """
        factors = [a for a in args[:2] if depends(a)]
        gates = [_is_gate(a) for a in factors]
        if len(factors) < 2 or all(gates):
            return _marked(func(*args, **kwargs)) if all(gates) else func(*args, **kwargs)
        shares = [0.0 if gate else 1.0 for gate in gates] if any(gates) else [0.5, 0.5]

        def rule(a: Tensor, b: Tensor, upper: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                leaves = [t.detach().requires_grad_() for t in (a, b)]
                gradients = torch.autograd.grad(func(*leaves, **kwargs), leaves, upper)
            return tuple(share * gradient for share, gradient in zip(shares, gradients, strict=True))

        return self._ruled(lambda a, b: func(a, b, **kwargs), rule, *args[:2])

    def layer_norm(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """The identity rule for the division by σ (proposition 3.4), the ε rule for centering and the affine part.

        That is the gradient with σ held fixed.
        """
        centers = func.__name__ == "layer_norm"
        names = ("input", "normalized_shape", "weight", *(["bias"] if centers else []), "eps")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        dims, weight = tuple(range(-len(given["normalized_shape"]), 0)), given.get("weight")
        eps = given.get("eps", 1e-5 if centers else None)

        def rule(x: Tensor, upper: Tensor) -> tuple[Tensor]:
            x = x - x.mean(dims, keepdim=True) if centers else x
            small = torch.finfo(x.dtype).eps if eps is None else eps
            upper = upper * (1 if weight is None else weight) * (x.square().mean(dims, keepdim=True) + small).rsqrt()
            return (upper - upper.mean(dims, keepdim=True) if centers else upper,)

        return self._ruled(lambda x: func(x, *args[1:], **kwargs), rule, args[0])

    def attention(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Fused attention outside of the blocks (a pooling head), step by step."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("is_causal") or given.get("enable_gqa"):
            self.refuse(func)
        with self:
            matrix = attention_matrix(given["query"], given["key"], given.get("attn_mask"), given.get("scale"))
            return matrix @ given["value"]


def _marked(gate: Tensor) -> Tensor:
    gate._takes_no_relevance = True
    return gate


def _is_gate(value: Tensor) -> bool:
    return getattr(value, "_takes_no_relevance", False)
