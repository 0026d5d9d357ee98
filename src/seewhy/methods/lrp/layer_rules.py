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

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from seewhy.core.maps import upcast
from seewhy.methods.lrp.modes import RelevanceMode
from seewhy.methods.lrp.rules import (
    CONVOLUTIONS,
    Rule,
    WeightedLayer,
    alpha_beta_rule,
    box_rule,
    epsilon_rule,
    flat_rule,
    gamma_rule,
)
from seewhy.methods.lrp.sums import PASS, PRODUCTS, SUMS, sum_rule
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.modes import Operation, is_tracked, pass_through, with_backward

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


class LayerRules(RelevanceMode):
    """The rules of a composite, for one forward.

    Args:
        composite: A name of `COMPOSITES`.
        epsilon: The stabilizer, added to each denominator with its sign.
        gamma: How much more positive weights count.
        box: The lowest and highest values that the first layer gets, for the z^B rule (`input_bounds`).
    """

    def __init__(self, composite: str, epsilon: float, gamma: float, box: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.convolution, self.linear = COMPOSITES[composite]
        self.box, self.epsilon, self.gamma = box, epsilon, gamma
        self._started = False
        self._layers = WeakTensorKeyDictionary()  # output → WeightedLayer
        self.handlers = {
            **dict.fromkeys((*CONVOLUTIONS, "linear"), self.layer),
            "batch_norm": self.batch_norm,
            **dict.fromkeys(SUMS, self.sum),
            **dict.fromkeys(PRODUCTS, self.product),
            **dict.fromkeys(PASS, pass_through),
            **dict.fromkeys(_REFUSED, self.refuse),
        }

    def layer(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a layer with weights; its backward is the rule that the composite has for it."""
        layer, x = WeightedLayer.of_call(operation, args, kwargs)
        name = self.linear if layer.is_linear else self.convolution
        if not self._started:
            name, self._started = self.first, True
        rule = self._rule(name, x)

        def backward(saved: tuple[Tensor, ...], upper: Tensor) -> tuple[Tensor]:
            x = saved[0]
            return (rule(layer, upcast(x), upcast(upper)).to(x.dtype),)

        out = with_backward(lambda: layer.run(x, keep=name in _USE_OUTPUT), backward, x)
        self._layers[out] = layer
        return out

    def batch_norm(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a batch norm: after a layer it becomes part of that layer; in any case it passes relevance on."""
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        options = {**dict(zip(names, args, strict=False)), **kwargs}
        x = options["input"]
        layer: WeightedLayer | None = self._layers.get(x)
        # The channels of a norm over tokens, (batch, tokens, features), are not the outputs of the linear layer.
        is_over_outputs = layer is not None and not (layer.is_linear and x.ndim > 2)
        if layer is not None and is_over_outputs and options["running_mean"] is not None:
            layer.merge(
                options["running_mean"],
                options["running_var"],
                options.get("weight"),
                options.get("bias"),
                options.get("eps", 1e-5),
            )
        return pass_through(lambda _: operation(*args, **kwargs), (x,), {})

    def sum(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a linear function without weights: each input gets its share of the result, a constant none."""
        return sum_rule(operation, args, kwargs, self.epsilon)

    def product(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a product: relevance goes to the signal, or in equal shares to several of one size.

        A gate, which has fewer values, and a constant take nothing.
        """
        tensors = [argument for argument in args[:2] if is_tracked(argument)]
        largest = max(tensor.numel() for tensor in tensors)
        signals = [tensor for tensor in tensors if tensor.numel() == largest]
        shapes = [signal.shape for signal in signals]

        def backward(_: tuple[Tensor, ...], upper: Tensor) -> list[Tensor]:
            if any(shape != upper.shape for shape in shapes):
                self.refuse(operation)
            return [upper / len(shapes)] * len(shapes)

        return with_backward(lambda: operation(*args, **kwargs), backward, *signals, saved=())

    def _rule(self, name: str, x: Tensor) -> Rule:
        if name == "box":
            assert self.box is not None
            low, high = (bound.to(upcast(x)) for bound in self.box)
            return partial(box_rule, low=low, high=high, epsilon=self.epsilon)
        if name == "gamma":
            return partial(gamma_rule, gamma=self.gamma, epsilon=self.epsilon)
        return partial(_RULES[name], epsilon=self.epsilon)


def attention_inside(model: VisionModel) -> str:
    """Return why these rules do not fit the model, which has attention inside; empty if none can be seen."""
    if model.structure.blocks:
        return "it has attention, for which convolutional LRP has no rule (attn_lrp has)"
    names = sorted({type(module).__name__ for module in model.module.modules() if _is_attention(module)})
    return f"it has {names[0]} inside, for which LRP has no rule" if names else ""


def _is_attention(module: nn.Module) -> bool:
    # By its name and its projections; what hides better is refused in the forward.
    is_named_so = "Attention" in type(module).__name__
    return is_named_so and any(isinstance(m, (nn.Linear, nn.MultiheadAttention)) for m in module.modules())
