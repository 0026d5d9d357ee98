"""LRP for convolutional networks: relevance itself goes down, with zennit's rules for the layers with weights.

zennit hooks modules and needs a model rewritten into modules (its canonizers). Here its rules get each convolution
where it happens, so `x += shortcut`, `x.mean((2, 3))` and batch norms of any library are seen without a rewrite.
What zennit has no rule for is ours: sums and averages share out in proportion (its `Norm`), gates and layer scales
take nothing, layer and group norms pass relevance on. Max pooling sends it to the maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from seewhy.errors import ModelError, require
from seewhy.methods.lrp.modes import ACTIVATIONS, Passed, Ruled, Rules, depends, passed
from seewhy.models.adapter import VisionModel

COMPOSITES = {
    "epsilon_plus_flat": ("flat", "zplus", "epsilon"),
    "epsilon_gamma_box": ("box", "gamma", "epsilon"),
    "epsilon_alpha2_beta1_flat": ("flat", "alpha2_beta1", "epsilon"),
    **{rule: (rule,) * 3 for rule in ("epsilon", "gamma", "zplus", "alpha1_beta0", "alpha2_beta1", "flat")},
}
"""Name → the rules of the first layer, of convolutions, and of linear layers."""

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_SUMS = (
    "add",
    "radd",
    "iadd",
    "sub",
    "isub",
    "rsub",
    "mean",
    "sum",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "interpolate",
)
_PRODUCTS = ("mul", "rmul", "imul", "div", "truediv", "idiv", "itruediv")
_PASS = (
    *ACTIVATIONS,
    "sigmoid",
    "tanh",
    "hardsigmoid",
    "neg",
    "layer_norm",
    "group_norm",
    "instance_norm",
    "rms_norm",
    "local_response_norm",
)
_REFUSED = (
    "softmax",
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "matmul",
    "bmm",
    "baddbmm",
    "einsum",
    "conv_transpose2d",
    "normalize",
    "pow",
    "exp",
    "rdiv",
    "rtruediv",
)


class LayerRules(Rules):
    """The rules of a composite, for one forward.

    Args:
        composite: a name of `COMPOSITES`.
        box: the lowest and highest input values, (1, C, 1, 1) each, for the z^B rule.
        epsilon: the stabilizer, added to each denominator with its sign.
        gamma: how much more positive weights count.
    """

    def __init__(self, composite: str, box: Callable[[], tuple[Tensor, Tensor]], epsilon: float, gamma: float) -> None:
        super().__init__()
        self.first, self.convolution, self.linear = COMPOSITES[composite]
        self.box, self.epsilon, self.gamma = box, epsilon, gamma
        self.seen = False
        self.layers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.table = {
            **dict.fromkeys((*_CONVOLUTIONS, "linear"), self.layer),
            "batch_norm": self.batch_norm,
            **dict.fromkeys(_SUMS, self.sum),
            **dict.fromkeys(_PRODUCTS, self.product),
            **dict.fromkeys(_PASS, passed),
            **dict.fromkeys(_REFUSED, self.refuse),
        }

    def layer(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A layer with weights, by zennit's rule."""
        given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        name = self.first if not self.seen else self.linear if func.__name__ == "linear" else self.convolution
        self.seen = True
        layer = _Layer(func, weight, bias, args[3:], given)
        out = Ruled.apply(lambda: func(*args, **kwargs), self._rule(name, layer, x), x)
        self.layers[out] = layer
        return out

    def _rule(self, name: str, layer: _Layer, x: Tensor) -> Callable:
        bounds = [_at_input(bound, x) for bound in self.box()] if name == "box" else []

        def rule(inputs: tuple[Tensor], upper: Tensor) -> tuple[Tensor]:
            x, exact = inputs[0], torch.promote_types(inputs[0].dtype, torch.float32)
            hook = self._zennit(name, bounds)
            hook.stored_tensors["input"] = (x.to(exact),)
            return (hook.backward(layer.to(exact), inputs, (upper.to(exact),))[0].to(x.dtype),)

        return rule

    def _zennit(self, name: str, bounds: list[Tensor]) -> Any:
        rules, small = require("zennit.rules", "lrp"), self.epsilon
        return {
            "epsilon": lambda: rules.Epsilon(epsilon=small),
            "gamma": lambda: rules.Gamma(gamma=self.gamma, stabilizer=small),
            "zplus": lambda: rules.ZPlus(stabilizer=small),
            "alpha1_beta0": lambda: rules.AlphaBeta(alpha=1.0, beta=0.0, stabilizer=small),
            "alpha2_beta1": lambda: rules.AlphaBeta(alpha=2.0, beta=1.0, stabilizer=small),
            "flat": lambda: rules.Flat(stabilizer=small),
            "box": lambda: rules.ZBox(*bounds, stabilizer=small),
        }[name]()

    def batch_norm(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A batch norm after a layer becomes part of that layer; elsewhere it passes relevance on."""
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        layer = self.layers.get(given["input"])
        if layer is not None and given["running_mean"] is not None:
            layer.merge(
                given["running_mean"],
                given["running_var"],
                given.get("weight"),
                given.get("bias"),
                given.get("eps", 1e-5),
            )
        return Passed.apply(lambda: func(*args, **kwargs), given["input"])

    def sum(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A linear function without weights: each input gets its share of the result."""
        return shared(func, args, kwargs, self.epsilon)

    def product(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """Relevance goes to the signal; a gate (of smaller shape) or a constant takes nothing. Equals share."""
        tensors = [a for a in args[:2] if depends(a)]
        largest = max(t.numel() for t in tensors)
        signals = [t for t in tensors if t.numel() == largest]
        share = 1 / len(signals)
        return Ruled.apply(
            lambda: func(*args, **kwargs),
            lambda _, upper: [share * upper if upper.shape == t.shape else self.refuse(func) for t in signals],
            *signals,
        )


def shared(func: Callable, args: tuple, kwargs: dict, epsilon: float) -> Tensor:
    """R_i = x_i ∂z/∂x_i · R / (z + ε sign z), for a function z that is linear in all its tensors together."""
    places = [i for i, a in enumerate(args) if depends(a)]

    def rule(inputs: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            leaves, full = [t.detach().requires_grad_() for t in inputs], list(args)
            for place, leaf in zip(places, leaves, strict=True):
                full[place] = leaf
            z = func(*full, **kwargs)
        found = torch.autograd.grad(z, leaves, upper / stabilized(z.detach(), epsilon))
        return [leaf.detach() * slope for leaf, slope in zip(leaves, found, strict=True)]

    if not places:
        raise ModelError(f"LRP cannot follow {func.__name__} here; use input_x_gradient")
    return Ruled.apply(lambda: func(*args, **kwargs), rule, *(args[i] for i in places))


def stabilized(z: Tensor, epsilon: float) -> Tensor:
    """z + ε sign z, with sign 0 = 1."""
    return z + epsilon * torch.where(z < 0, -1.0, 1.0).to(z)


class _Layer(nn.Module):
    """A layer as zennit wants one: parameters by name, and a forward; it shares the user's weights."""

    def __init__(self, func: Callable, weight: Tensor, bias: Tensor | None, args: tuple, kwargs: dict) -> None:
        super().__init__()
        self.func, self.args, self.kwargs, self.merged = func, args, kwargs, False
        self._set(weight, bias)

    def _set(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.func(x, self.weight, self.bias, *self.args, **self.kwargs)

    def merge(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        """Make a batch norm that follows part of the weights: w s and (b − μ) s + β, s = γ / √(σ² + eps)."""
        if self.merged:
            raise ModelError(
                "one convolution feeds two batch norms, which cannot both be merged into it; use input_x_gradient"
            )
        scale = (var + eps).rsqrt() if weight is None else weight * (var + eps).rsqrt()
        shifted = (-mean if self.bias is None else self.bias - mean) * scale
        weights = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        self._set(weights, shifted if bias is None else shifted + bias)
        self.merged = True


def input_bounds(model: VisionModel) -> tuple[Tensor, Tensor]:
    """The lowest and highest values of the model's input, (1, C, 1, 1): black and white after its preprocessing."""
    from PIL import Image

    ends = torch.cat([model.preprocess_images(Image.new("RGB", (256, 256), color)) for color in ("black", "white")])
    return ends.amin((0, 2, 3), keepdim=True), ends.amax((0, 2, 3), keepdim=True)


def _at_input(bound: Float[Tensor, "1 channels 1 1"], x: Tensor) -> Tensor:
    """A bound of the pixels as one of the first layer's input: images, or images flattened channel by channel."""
    channels = bound.shape[1]
    if x.ndim == 4 and x.shape[1] == channels:
        return bound
    if x.ndim == 2 and x.shape[1] % channels == 0:
        return bound.flatten().repeat_interleave(x.shape[1] // channels)[None]
    raise ModelError(
        f"the z^B rule needs the image's {channels} channels at the first layer, which gets "
        f"{tuple(x.shape)}; use composite='epsilon_plus_flat'"
    )


def lrp_unmet(model: VisionModel) -> str:
    """Why these rules cannot serve the model."""
    if model.structure.blocks:
        return "it has attention, for which convolutional LRP has no rule (attn_lrp has)"
    inside = sorted({type(m).__name__ for m in model.module.modules() if _attends(m)})
    return f"it has {inside[0]} inside, for which LRP has no rule" if inside else ""


def _attends(module: nn.Module) -> bool:
    """Attention by its name and its projections; what hides better is refused in the forward."""
    named = "Attention" in type(module).__name__
    return named and any(isinstance(m, (nn.Linear, nn.MultiheadAttention)) for m in module.modules())
