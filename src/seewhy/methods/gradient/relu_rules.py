"""Another backward for ReLUs only, for the length of one run: what deconvnet and guided backprop share.

A `TorchFunctionMode` (local to this thread and block, nothing is patched, no module is touched) sees every ReLU:
`nn.ReLU`, in place or not, `F.relu`, `torch.relu`, `Tensor.relu_` and their kin, and ReLU6. Forward values stay the
same to the bit. Other activations are left alone, and `clamp` too, which is as often arithmetic as an activation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seewhy.errors import RequirementError
from seewhy.methods.base import Method, gradient
from seewhy.models.adapter import VisionModel
from seewhy.targets import Target

RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradient": lambda g, open_: g * open_,
    "guided": lambda g, open_: g.clamp(min=0) * open_,
    "deconvnet": lambda g, open_: g.clamp(min=0),
}
"""From the gradient at a ReLU's output, and where its input let pass, to the gradient at its input."""

_IN_PLACE = {F.relu_, torch.relu_, Tensor.relu_}
_RELU = {F.relu, torch.relu, Tensor.relu, *_IN_PLACE}
_CAPPED = {F.relu6: 6.0, F.hardtanh: None, F.hardtanh_: None}
_OTHER = re.compile(r"(gelu|silu|swish|mish|elu|tanh|softplus|sigmoid)", re.IGNORECASE)


class ReLURule(TorchFunctionMode):
    """In the block, ReLUs differentiate by `rule`, which can be changed between two backwards of one forward.

    Attributes:
        rule: a name in `RULES`.
        seen: how many ReLUs ran with something to differentiate.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule, self.seen = rule, 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        cap = _cap(func, args, kwargs)
        value = args[0] if args else kwargs.get("input")
        if cap is None or not value.requires_grad or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        self.seen += 1
        result = _Ruled.apply(value, cap, self)
        in_place = func in _IN_PLACE or func is F.hardtanh_ or _argument(func, args, kwargs)
        # copy_ is differentiated by autograd itself, views included
        return value.copy_(result) if in_place else result


def _cap(func: Callable, args: tuple, kwargs: dict) -> float | None:
    """Where the ReLU ends (infinity, or 6 for ReLU6); None if the function is no ReLU."""
    if func in _RELU:
        return float("inf")
    if func not in _CAPPED:
        return None
    if func is F.relu6:
        return 6.0
    low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
    high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
    return float(high) if low == 0 else None


def _argument(func: Callable, args: tuple, kwargs: dict) -> bool:
    """The value of the argument `inplace`."""
    position = {F.relu: 1, F.relu6: 1, F.hardtanh: 3}.get(func, len(args))
    return bool(args[position] if len(args) > position else kwargs.get("inplace", False))


class _Ruled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, cap: float, mode: ReLURule) -> Tensor:
        ctx.mode = mode
        ctx.save_for_backward((value > 0) & (value < cap))
        return value.clamp(0, cap) if cap < float("inf") else value.relu()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return RULES[ctx.mode.rule](grad, ctx.saved_tensors[0]), None, None


class ReLUMethod(Method):
    """Base of the methods that need ReLUs: they say so where there are none, and never give a plain gradient."""

    scores_once = True
    rule: ClassVar[str]

    @classmethod
    def why_incompatible(cls, model: VisionModel) -> str:
        return super().why_incompatible(model) or lacks_relu(model.module)

    def ruled_input_gradient(self, x: Tensor, target: Target) -> Tensor:
        """∂f/∂x by this method's rule.

        Raises:
            RequirementError: no ReLU ran between the image and the score.
        """
        with torch.enable_grad(), ReLURule(self.rule) as mode:
            x = x.detach().requires_grad_()
            score = target.score(self.model.run(x))
        self.ensure_seen(mode)
        return gradient(score, x)

    def ensure_seen(self, mode: ReLURule) -> None:
        """Raise `RequirementError` if the model ran no ReLU."""
        if not mode.seen:
            raise RequirementError(
                f"{self.card.title} changes the gradient of ReLUs, and {self.model.name} ran none; "
                "use saliency, smooth_grad or integrated_gradients"
            )


def lacks_relu(module: nn.Module) -> str:
    """Why there is no ReLU, as far as the modules tell; empty if there is one, or only the run can tell."""
    modules = list(module.modules())
    if any(isinstance(m, nn.ReLU) or (isinstance(m, nn.Hardtanh) and m.min_val == 0) for m in modules):
        return ""
    other = sorted({type(m).__name__ for m in modules if not any(m.children()) and _OTHER.search(type(m).__name__)})
    return f"it changes the gradient of ReLUs, and this model has {', '.join(other)} instead" if other else ""
