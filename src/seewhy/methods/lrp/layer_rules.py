"""LRP for convolutional networks: relevance itself goes down, layers with weights by the rules of `rules.py`.

Each operation is met where it happens in the forward, so `x += shortcut`, `x.mean((2, 3))` and batch norms of any
library are seen without rewriting the model into modules. What the papers have no rule for is ours: sums and averages
share out in proportion, gates and layer scales take nothing, layer and group norms pass relevance on. Max pooling sends
it to the maximum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from seewhy.core.maps import upcast
from seewhy.errors import ModelError
from seewhy.methods.lrp.modes import ACTIVATIONS, Passed, Ruled, Rules, depends, passed
from seewhy.methods.lrp.rules import (
    CONVOLUTIONS,
    Rule,
    WeightedLayer,
    alpha_beta_rule,
    box_rule,
    epsilon_rule,
    flat_rule,
    gamma_rule,
    stabilized,
)
from seewhy.models.adapter import VisionModel

COMPOSITES = {
    "epsilon_plus_flat": ("flat", "zplus", "epsilon"),
    "epsilon_gamma_box": ("box", "gamma", "epsilon"),
    "epsilon_alpha2_beta1_flat": ("flat", "alpha2_beta1", "epsilon"),
    **{rule: (rule,) * 3 for rule in ("epsilon", "gamma", "zplus", "alpha1_beta0", "alpha2_beta1", "flat")},
}
"""Name → the rules of the first layer, of convolutions, and of linear layers."""

_RULES: dict[str, Callable[..., Tensor]] = {
    "epsilon": epsilon_rule,
    "zplus": partial(alpha_beta_rule, alpha=1.0, beta=0.0),
    "alpha1_beta0": partial(alpha_beta_rule, alpha=1.0, beta=0.0),
    "alpha2_beta1": partial(alpha_beta_rule, alpha=2.0, beta=1.0),
    "flat": flat_rule,
}
_USE_OUTPUT = ("epsilon", "gamma", "box")
"""Rules that go back through the layer's own output, which is kept for them."""

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
        self._started = False
        self._layers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.table = {
            **dict.fromkeys((*CONVOLUTIONS, "linear"), self.layer),
            "batch_norm": self.batch_norm,
            **dict.fromkeys(_SUMS, self.sum),
            **dict.fromkeys(_PRODUCTS, self.product),
            **dict.fromkeys(_PASS, passed),
            **dict.fromkeys(_REFUSED, self.refuse),
        }

    def layer(self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a layer with weights, and send relevance down by the rule that the composite has for it."""
        layer, x = WeightedLayer.of_call(func, args, kwargs)
        name = self.linear if layer.is_linear else self.convolution
        if not self._started:
            name, self._started = self.first, True
        rule = self._rule(name, x)

        def backward(inputs: tuple[Tensor, ...], upper: Tensor) -> tuple[Tensor]:
            relevance = rule(layer, upcast(inputs[0]), upcast(upper))
            return (relevance.to(inputs[0].dtype),)

        out = Ruled.apply(lambda: layer.run(x, keep=name in _USE_OUTPUT), backward, x)
        self._layers[out] = layer
        return out

    def _rule(self, name: str, x: Tensor) -> Rule:
        if name == "box":
            low, high = (_at_input(bound, x).to(upcast(x)) for bound in self.box())
            return partial(box_rule, low=low, high=high, epsilon=self.epsilon)
        if name == "gamma":
            return partial(gamma_rule, gamma=self.gamma, epsilon=self.epsilon)
        return partial(_RULES[name], epsilon=self.epsilon)

    def batch_norm(self, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        """A batch norm after a layer becomes part of that layer; elsewhere it passes relevance on."""
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        layer = self._layers.get(given["input"])
        tokens = layer is not None and layer.is_linear and given["input"].ndim > 2  # their channels are not the outputs
        if layer is not None and not tokens and given["running_mean"] is not None:
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
