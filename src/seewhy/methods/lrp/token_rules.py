"""LRP for transformers (AttnLRP): relevance divided by the value goes down, so that relevance is value × what arrives.

With R = x ⊙ G, most of the rules of AttnLRP are the plain gradient in G: the ε rule as ε → 0, sums, softmax (its
Taylor decomposition at x, proposition 3.1). Others need one factor. So no activation is ever divided by, but for
f(x)/x of an activation. Matrix products and linear layers go back through the model's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from seewhy.methods.lrp.modes import ACTIVATIONS, RelevanceMode
from seewhy.methods.lrp.rules import CONVOLUTIONS, WeightedLayer, gamma_slopes, stabilized
from seewhy.models.instrument.attention import attention_matrix
from seewhy.models.instrument.modes import Operation, is_tracked, with_backward

LINEAR_RULES = ("epsilon", "zplus")
"""Names of the rules of layers with weights that the methods on attention matrices offer."""

_GATES = ("sigmoid", "tanh", "hardsigmoid", "rsqrt")
_PRODUCTS = ("matmul", "rmatmul", "bmm", "mul", "rmul", "imul")
_REFUSED = ("multi_head_attention_forward", "einsum", "baddbmm", "group_norm", "instance_norm", "normalize")


class TokenRules(RelevanceMode):
    """The rules of AttnLRP, for one forward.

    Args:
        linear: The rule of layers with weights: `epsilon`, `zplus` (α = 1, β = 0) or `gamma`.
        epsilon: Their stabilizer.
        gammas: γ of convolutions, of linear layers, and of linear layers inside attention, for the rule `gamma`.
        constant_attention: Whether attention matrices take no relevance (CP-LRP), so that values get it all.

    Attributes:
        plain: While true, a backward gives the true gradient instead.
        in_attention: Whether what runs is inside attention.
    """

    def __init__(
        self,
        linear: str = "epsilon",
        epsilon: float = 1e-6,
        gammas: tuple[float, float, float] = (0.25, 0.05, 0.0),
        constant_attention: bool = False,
    ) -> None:
        super().__init__()
        self.epsilon, self.gammas = epsilon, gammas
        self.plain = self.in_attention = False
        layer = {"epsilon": self.epsilon_layer, "zplus": self.zplus_layer, "gamma": self.gamma_layer}[linear]
        self.handlers = {
            **dict.fromkeys((*CONVOLUTIONS, "linear"), layer),
            **({"softmax": _constant} if constant_attention else {}),
            **dict.fromkeys(ACTIVATIONS, self.activation),
            **dict.fromkeys(_GATES, self.gate),
            **dict.fromkeys(_PRODUCTS, self.product),
            **dict.fromkeys(("add", "radd"), self.shifted),
            "layer_norm": self.layer_norm,
            "rms_norm": self.layer_norm,
            "scaled_dot_product_attention": self.attention,
            **dict.fromkeys(_REFUSED, self.refuse),
        }

    def epsilon_layer(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a layer with weights: R_i = Σ_j x_i w_ij / (z_j + ε sign z_j) R_j, z with its bias."""
        layer, x = WeightedLayer.of_call(operation, args, kwargs)

        def backward(saved: tuple[Tensor, ...], upper: Tensor) -> Iterable[Tensor]:
            leaf, z = layer.output(saved[0])
            if self.epsilon and not self.plain:
                size = z.detach().abs()
                upper = upper * size / (size + self.epsilon)
            return torch.autograd.grad(z, leaf, upper, retain_graph=True)

        return with_backward(lambda: layer.run(x, keep=True), backward, x)

    def zplus_layer(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a layer with weights: R_i = Σ_j (x_i w_ij)⁺ / (Σ_i' (x_i' w_i'j)⁺ + b_j⁺) R_j."""
        layer, x = WeightedLayer.of_call(operation, args, kwargs)

        def backward(saved: tuple[Tensor, ...], upper: Tensor) -> Iterable[Tensor]:
            (x,) = saved
            leaf, z = layer.output(x)
            if self.plain:
                return torch.autograd.grad(z, leaf, upper, retain_graph=True)
            parts, positive = layer.part(x, positive=True)
            upper = upper * z.detach() / stabilized(positive.detach(), self.epsilon)
            gradients = torch.autograd.grad(positive, parts, upper)
            return (gradients[0] if len(gradients) == 1 else torch.where(x < 0, gradients[1], gradients[0]),)

        return with_backward(lambda: layer.run(x, keep=True), backward, x)

    def gamma_layer(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a layer with weights: LRP-γ, which favors the parts of the output's own sign; γ = 0 is ε."""
        layer, x = WeightedLayer.of_call(operation, args, kwargs)
        gamma = self.gammas[2 if self.in_attention else layer.is_linear]
        if not gamma:
            return self.epsilon_layer(operation, args, kwargs)

        def backward(saved: tuple[Tensor, ...], upper: Tensor) -> Iterable[Tensor]:
            leaf, z = layer.output(saved[0])
            if self.plain:
                return torch.autograd.grad(z, leaf, upper, retain_graph=True)
            return (gamma_slopes(layer, saved[0], upper * z.detach(), gamma=gamma, epsilon=self.epsilon),)

        return with_backward(lambda: layer.run(x, keep=True), backward, x)

    def activation(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run an activation: R_x = R_f(x), the identity rule, which is G_x = G f(x)/x."""

        def compute(x: Tensor) -> Tensor:
            return operation(x, *args[1:], **kwargs)

        def rule(x: Tensor, upper: Tensor) -> Tensor:
            return upper * torch.where(x == 0, 0.0, compute(x) / torch.where(x == 0, 1.0, x))

        return self._of_one(compute, rule, args[0])

    def gate(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run something that may be a factor, or a result of its own.

        A factor takes no relevance: see `product`. A result (a pooler's tanh) passes it on, as every activation does.
        """
        return as_gate(self.activation(operation, args, kwargs))

    def shifted(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a sum, which keeps its gradient; a gate plus a constant is a gate (1 + tanh)."""
        result = operation(*args, **kwargs)
        terms = [argument for argument in args[:2] if is_tracked(argument)]
        return as_gate(result) if all(is_gate(term) for term in terms) else result

    def product(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a product: two factors that depend on the image get half the relevance each (proposition 3.3).

        A gate takes none, so x σ(x) passes its relevance on as it is.
        """
        factors = [argument for argument in args[:2] if is_tracked(argument)]
        gates = [is_gate(factor) for factor in factors]
        if all(gates):
            return as_gate(operation(*args, **kwargs))
        if len(factors) < 2:
            return operation(*args, **kwargs)
        shares = [0.0 if gate else 1.0 for gate in gates] if any(gates) else [0.5, 0.5]
        with torch.enable_grad():
            leaves = [factor.detach().requires_grad_() for factor in factors]
            out = operation(*leaves, **kwargs)

        def backward(_: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
            gradients = torch.autograd.grad(out, leaves, upper, retain_graph=True)
            weights = (1.0, 1.0) if self.plain else shares
            return [weight * gradient for weight, gradient in zip(weights, gradients, strict=True)]

        return with_backward(out.detach, backward, *factors, saved=())

    def layer_norm(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a norm: the identity rule for the division by σ (proposition 3.4), the ε rule for the affine rest.

        That is the gradient with σ held fixed.
        """
        centers = operation.__name__ == "layer_norm"
        names = ("input", "normalized_shape", "weight", *(["bias"] if centers else []), "eps")
        options = {**dict(zip(names, args, strict=False)), **kwargs}
        dims = tuple(range(-len(options["normalized_shape"]), 0))
        weight, eps = options.get("weight"), options.get("eps", 1e-5 if centers else None)

        def rule(x: Tensor, upper: Tensor) -> Tensor:
            x = x - x.mean(dims, keepdim=True) if centers else x
            small = torch.finfo(x.dtype).eps if eps is None else eps
            upper = upper * (1 if weight is None else weight) * (x.square().mean(dims, keepdim=True) + small).rsqrt()
            return upper - upper.mean(dims, keepdim=True) if centers else upper

        return self._of_one(lambda x: operation(x, *args[1:], **kwargs), rule, args[0])

    def attention(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run fused attention outside of the blocks (a pooling head), step by step."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        options = {**dict(zip(names, args, strict=False)), **kwargs}
        if options.get("is_causal") or options.get("enable_gqa"):
            self.refuse(operation)
        with self:
            matrix = attention_matrix(options["query"], options["key"], options.get("attn_mask"), options.get("scale"))
            return matrix @ options["value"]

    def _of_one(
        self, compute: Callable[[Tensor], Tensor], rule: Callable[[Tensor, Tensor], Tensor], x: Tensor
    ) -> Tensor:
        """Compute a function of one tensor, with `rule` as its backward, or the true gradient while `plain`."""

        def backward(saved: tuple[Tensor, ...], upper: Tensor) -> Iterable[Tensor]:
            (x,) = saved
            if not self.plain:
                return (rule(x, upper),)
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                return torch.autograd.grad(compute(leaf), leaf, upper)

        return with_backward(lambda: compute(x), backward, x)


def _constant(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return operation(*args, **kwargs).detach()


_GATE_MARK = "_takes_no_relevance"


def as_gate(gate: Tensor) -> Tensor:
    """Mark a value that takes no relevance in a product."""
    setattr(gate, _GATE_MARK, True)
    return gate


def is_gate(value: Tensor) -> bool:
    """Tell whether a value takes no relevance in a product."""
    return getattr(value, _GATE_MARK, False)
