"""Another backward for ReLUs only, for the length of one run: what deconvnet and guided backprop share.

Every ReLU is seen: `nn.ReLU`, in place or not, `F.relu`, `torch.relu`, `Tensor.relu_` and their kin, and ReLU6. Other
activations are left alone, and `clamp` too, which is as often arithmetic as an activation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seewhy.errors import RequirementError
from seewhy.methods.base import gradient, input_leaf
from seewhy.methods.gradient.channels import PixelMagnitudes
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.modes import BackwardMode, Operation, with_backward
from seewhy.targets import Target

RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradient": lambda upper, is_open: upper * is_open,
    "guided": lambda upper, is_open: upper.clamp(min=0) * is_open,
    "deconvnet": lambda upper, _: upper.clamp(min=0),
}
"""From the gradient at a ReLU's output, and where its input let pass, to the gradient at its input."""

_OTHER = re.compile(r"(gelu|silu|swish|mish|elu|tanh|softplus|sigmoid)", re.IGNORECASE)


class ReLURule(BackwardMode):
    """In the block, ReLUs differentiate by `rule`, which can be changed between two backwards of one forward.

    Attributes:
        rule: A name in `RULES`.
        seen: How many ReLUs ran with something to differentiate.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.seen = 0
        self.handlers = {
            "relu": lambda _, args, kwargs: self._relu(args[0], float("inf")),
            "relu6": lambda _, args, kwargs: self._relu(args[0], 6.0),
            "hardtanh": self._hardtanh,
        }

    def _hardtanh(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        limits = {
            "min_val": -1.0,
            "max_val": 1.0,
            **dict(zip(("min_val", "max_val"), args[1:], strict=False)),
            **kwargs,
        }
        if limits["min_val"] != 0:
            return operation(*args, **kwargs)
        return self._relu(args[0], float(limits["max_val"]))

    def _relu(self, x: Tensor, cap: float) -> Tensor:
        self.seen += 1
        with torch.no_grad():  # the result is kept by the layer that comes next, too; a mask would come on top of it
            result = x.clamp(0, cap) if cap < float("inf") else x.relu()

        def backward(saved: tuple[Tensor, ...], upper: Tensor) -> tuple[Tensor]:
            (result,) = saved
            is_open = (result > 0) & (result < cap) if cap < float("inf") else result > 0
            return (RULES[self.rule](upper, is_open),)

        return with_backward(lambda: result, backward, x, saved=(result,))


class ReLUMethod(PixelMagnitudes):
    """Base of the methods that change ReLUs: a model without any is refused, not given a plain gradient."""

    scores_once = shares_gradients = True
    rule: ClassVar[str]

    @classmethod
    def why_incompatible(cls, model: VisionModel) -> str:
        """Return why the method does not fit the model; empty if it does."""
        return super().why_incompatible(model) or lacks_relu(model.module)

    def ruled_input_gradient(self, x: Tensor, target: Target) -> Tensor:
        """Return ∂f/∂x by this method's rule.

        Raises:
            RequirementError: When no ReLU ran between the image and the score.
        """
        mode = ReLURule(self.rule)
        with input_leaf(self.model, x) as (leaf, index), mode:
            score = target.score(self.model.run(leaf))
        self.ensure_seen(mode)
        return gradient(score, leaf, index=index)

    def ensure_seen(self, mode: ReLURule) -> None:
        """Raise `RequirementError` if the model ran no ReLU."""
        if not mode.seen:
            raise RequirementError(
                f"{self.card.title} changes the gradient of ReLUs, and {self.model.name} ran none; "
                "use saliency, smooth_grad or integrated_gradients"
            )


def lacks_relu(module: nn.Module) -> str:
    """Return why there is no ReLU, as far as the modules tell; empty if there is one, or only the run can tell."""
    modules = list(module.modules())
    if any(isinstance(m, nn.ReLU) or (isinstance(m, nn.Hardtanh) and m.min_val == 0) for m in modules):
        return ""
    leaves = {type(m).__name__ for m in modules if not any(m.children())}
    others = sorted(name for name in leaves if _OTHER.search(name))
    return f"it changes the gradient of ReLUs, and this model has {', '.join(others)} instead" if others else ""
