"""The rules of LRP for one layer with weights, from their equations.

Notation: a layer computes z_j = Σ_i x_i w_ij + b_j; R_j is the relevance of its outputs, R_i that of its inputs;
t⁺ = max(0, t), t⁻ = min(0, t); every denominator d is stabilized to d + ε sign d. The equations of [1] (table 10.1)
assume x ≥ 0; for other inputs w⁺ stands for "what makes x w positive", as in [2] (eq. 60).

No weight matrix is ever divided by: with s_j = R_j / d_j every rule is x ⊙ (Wᵀ s), one pass of s back through a layer
that is linear in its input. The model's own forward serves as the forward with W, so a rule runs only the forwards
with other weights that its equation has. Extra forwards and passes back for each layer:

| rule | x ≥ 0 | x of both signs |
|---|---|---|
| ε | 0, 1 | 0, 1 |
| γ | 1, 2 | 2, 3 |
| z⁺ = α1β0 | 1, 1 | 2, 2 |
| α2β1 | 2, 2 | 4, 4 |
| flat | 1, 1, with one channel for each group | the same |
| z^B | 2, 2, one forward of them with a single image | the same |

[1] Montavon et al., Layer-Wise Relevance Propagation: An Overview (2019).
[2] Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by LRP (2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seewhy.core.maps import upcast
from seewhy.errors import ModelError

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_ARGUMENTS = {
    "linear": ("input", "weight", "bias"),
    **dict.fromkeys(CONVOLUTIONS, ("input", "weight", "bias", "stride", "padding", "dilation", "groups")),
}


class WeightedLayer:
    """One call of a linear function or a convolution, with a batch norm that follows merged into its weights.

    Args:
        func: The function, such as `torch.nn.functional.conv2d`.
        options: Its arguments by name, but for the input.

    Attributes:
        weight: The weights, (out, in, …), without a merged batch norm.
        bias: The bias, likewise; None if there is none.
    """

    def __init__(self, func: Callable[..., Tensor], options: dict[str, Any]) -> None:
        self.func = func
        self._options = dict(options)
        self.weight: Tensor = self._options.pop("weight")
        self.bias: Tensor | None = self._options.pop("bias", None)
        self._scale: Tensor | None = None
        self._shift: Tensor | None = None
        self._kept: tuple[Tensor, Tensor, int] | None = None

    @classmethod
    def of_call(
        cls, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[WeightedLayer, Tensor]:
        """Return the layer of a call `func(*args, **kwargs)`, and its input."""
        options = {**dict(zip(_ARGUMENTS[func.__name__], args, strict=False)), **kwargs}
        x = options.pop("input")
        return cls(func, options), x

    @property
    def is_linear(self) -> bool:
        """Whether it is a matrix, and not a convolution."""
        return self.func.__name__ == "linear"

    @property
    def groups(self) -> int:
        """The number of groups of the convolution."""
        return self._options.get("groups", 1)

    def run(self, x: Tensor, keep: bool) -> Tensor:
        """Return what the model computes here, bit for bit.

        Args:
            x: The input.
            keep: Whether `output` will be asked for: then this forward is the one that it goes back through.
        """
        if not keep or upcast(x).dtype != x.dtype:
            return self.apply(x, self.weight, self.bias)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            out = self.apply(leaf, self.weight, self.bias)
        self._kept = (leaf, out, out._version)
        return out.detach()

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None, **changed: Any) -> Tensor:
        """Run the function with other arguments."""
        return self.func(x, weight, bias, **{**self._options, **changed})

    def merge(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        """Make a batch norm that follows part of the layer: w s and (b − μ) s + β, s = γ / √(σ² + eps).

        Raises:
            ModelError: When another batch norm is merged already.
        """
        if self._scale is not None:
            raise ModelError(
                "one convolution feeds two batch norms, which cannot both be merged into it; use input_x_gradient"
            )
        self._scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
        self._shift = -mean * self._scale if bias is None else bias - mean * self._scale

    def merged(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return weights and bias with the batch norm in them."""
        weight, bias = self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        if self._scale is None or self._shift is None:
            return weight, bias
        scale, shift = self._scale.to(dtype), self._shift.to(dtype)
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        return weight, shift if bias is None else bias * scale + shift

    def output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a leaf that equals `x` and z as a function of it, the batch norm included.

        The forward that the model did is taken where there is one, and where nothing overwrote its result in place.
        """
        if self._kept is not None and self._kept[1]._version == self._kept[2]:
            leaf, z, _ = self._kept
            if self._scale is None or self._shift is None:
                return leaf, z
            over_channels = (-1, *[1] * (self.weight.ndim - 2))
            with torch.enable_grad():
                return leaf, z * self._scale.view(over_channels) + self._shift.view(over_channels)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return leaf, self.apply(leaf, *self.merged(x.dtype))

    def part(self, x: Tensor, positive: bool) -> tuple[list[Tensor], Tensor]:
        """Return Σ_i (x_i w_ij)⁺ + b_j⁺, or the same with ⁻, as a function of leaves.

        Args:
            x: The input.
            positive: Which of the two.

        Returns:
            The leaves x⁺ and x⁻ (which is left out where x ≥ 0), and the sum.
        """
        weight, bias = self.merged(x.dtype)
        below = bool((x < 0).any())
        with torch.enable_grad():
            upper = (x.detach().clamp(min=0) if below else x.detach()).requires_grad_()
            total = self.apply(upper, _signed(weight, positive), None if bias is None else _signed(bias, positive))
            if not below:
                return [upper], total
            lower = x.detach().clamp(max=0).requires_grad_()
            return [upper, lower], total + self.apply(lower, _signed(weight, not positive), None)


Rule = Callable[[WeightedLayer, Tensor, Tensor], Tensor]
"""From a layer, its input and R_j to R_i."""


def epsilon_rule(layer: WeightedLayer, x: Tensor, relevance: Tensor, *, epsilon: float) -> Tensor:
    """Apply LRP-ε: R_i = Σ_j x_i w_ij / z_j R_j ([1], LRP-ε; [2], eq. 58); ε = 0 is LRP-0."""
    leaf, z = layer.output(x)
    return x * _back(z, [leaf], relevance / stabilized(z.detach(), epsilon))[0]


def gamma_rule(layer: WeightedLayer, x: Tensor, relevance: Tensor, *, gamma: float, epsilon: float) -> Tensor:
    """Apply LRP-γ, see `gamma_slopes`: R_i = x_i times them."""
    return x * gamma_slopes(layer, x, relevance, gamma=gamma, epsilon=epsilon)


def gamma_slopes(layer: WeightedLayer, x: Tensor, relevance: Tensor, *, gamma: float, epsilon: float) -> Tensor:
    """Return R_i / x_i by LRP-γ ([1], LRP-γ).

    R_i = Σ_j (x_i w_ij + γ (x_i w_ij)^±) / (z_j + γ z_j^±) R_j, ± the sign of z_j. The rule of [1] is the one for
    z_j > 0; for z_j < 0 the negative parts are favored in its place (Andéol et al., Learning Domain Invariant
    Representations by Joint Wasserstein Distance Minimization, 2021). With (x w)⁻ = x w − (x w)⁺ both come from the
    passes back of W and of the positive part: Wᵀ(s⁺ + (1 + γ) s⁻) + γ (W⁺)ᵀ(s⁺ − s⁻), where s⁺ and s⁻ are s at
    outputs of either sign, else 0.
    """
    leaf, output = layer.output(x)
    parts, positive = layer.part(x, positive=True)
    z, up = output.detach(), positive.detach()
    above = torch.where(z > 0, relevance, 0) / stabilized(z + gamma * up, epsilon)
    below = torch.where(z < 0, relevance, 0) / stabilized(z + gamma * (z - up), epsilon)
    plain = _back(output, [leaf], above + (1 + gamma) * below)[0]
    grown = _back(positive, parts, above - below)
    return plain + gamma * (grown[0] if len(grown) == 1 else torch.where(x < 0, grown[1], grown[0]))


def alpha_beta_rule(
    layer: WeightedLayer, x: Tensor, relevance: Tensor, *, alpha: float, beta: float, epsilon: float
) -> Tensor:
    """Apply LRP-αβ: R_i = Σ_j (α (x_i w_ij)⁺ / z_j⁺ − β (x_i w_ij)⁻ / z_j⁻) R_j ([2], eq. 60).

    α = 1, β = 0 is z⁺ (Montavon et al., Explaining nonlinear classification decisions with deep Taylor decomposition,
    2017). The positive part of the bias stands in z⁺, the negative in z⁻.
    """
    result = alpha * _part_relevance(layer, x, relevance, True, epsilon)
    return result - beta * _part_relevance(layer, x, relevance, False, epsilon) if beta else result


def flat_rule(layer: WeightedLayer, x: Tensor, relevance: Tensor, *, epsilon: float) -> Tensor:
    """Apply LRP-flat: R_i = Σ_j 1 / n_j R_j, n_j the number of inputs that j has (Lapuschkin et al., 2019).

    Padding is no input. All inputs of a group are alike, so one channel stands for those of a group.
    """
    if layer.is_linear:
        count = torch.as_tensor(float(x.shape[-1])).to(x)
        return (relevance / stabilized(count, epsilon)).sum(-1, keepdim=True).expand_as(x)
    groups, channels = layer.groups, layer.weight.shape[1]
    with torch.enable_grad():
        leaf = torch.ones_like(x[:, :groups]).requires_grad_()
        inputs = layer.apply(leaf, torch.ones_like(layer.weight[:groups, :1], dtype=x.dtype), None)
    relevance = relevance.unflatten(1, (groups, -1)).sum(2)
    shares = _back(inputs, [leaf], relevance / stabilized(channels * inputs.detach(), epsilon))[0]
    return shares.repeat_interleave(channels, 1)


def box_rule(
    layer: WeightedLayer, x: Tensor, relevance: Tensor, *, low: Tensor, high: Tensor, epsilon: float
) -> Tensor:
    """Apply z^B: R_i = Σ_j (x_i w_ij − low_i w_ij⁺ − high_i w_ij⁻) / (the sum over i) R_j ([1], table 10.1).

    The bias takes no part: what it adds to the three sums cancels.
    """
    leaf, output = layer.output(x)
    weight, bias = layer.merged(x.dtype)
    shape = (1, *x.shape[1:])
    with torch.enable_grad():
        bottom = low.expand_as(x).detach().requires_grad_()
        lowest = layer.apply(bottom, _signed(weight, True), None)
    rest = layer.apply(high.expand(shape), _signed(weight, False), None)
    if bias is not None:
        rest = rest + bias.view(-1, *[1] * (weight.ndim - 2))
    s = relevance / stabilized(output.detach() - lowest.detach() - rest, epsilon)
    plain, up = _back(output, [leaf], s)[0], _back(lowest, [bottom], s)[0]
    return x * plain - low * up - high * (plain - up)


def stabilized(z: Tensor, epsilon: float) -> Tensor:
    """Return z + ε sign z, with sign 0 = 1."""
    return z + epsilon * torch.where(z < 0, -1.0, 1.0).to(z)


def _part_relevance(layer: WeightedLayer, x: Tensor, relevance: Tensor, positive: bool, epsilon: float) -> Tensor:
    parts, total = layer.part(x, positive)
    return _times(parts, _back(total, parts, relevance / stabilized(total.detach(), epsilon)))


def _signed(values: Tensor, positive: bool) -> Tensor:
    return values.clamp(min=0) if positive else values.clamp(max=0)


def _back(output: Tensor, leaves: list[Tensor], upper: Tensor) -> tuple[Tensor, ...]:
    # the graph stays: the forward that the model did serves each backward of the caller
    return torch.autograd.grad(output, leaves, upper, retain_graph=True)


def _times(leaves: list[Tensor], gradients: tuple[Tensor, ...]) -> Tensor:
    terms = [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]
