"""Running a model with another backward: each operation hands relevance down by its own rule.

A `TorchFunctionMode`, local to the block and thread, sees every operation of the forward and lets it compute what it
always computes; only the way back is replaced. So the user's module is neither copied nor changed, nothing is patched,
the logits are the same bits, and sums, poolings and activations are seen also where a model writes them as plain code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import set_checkpoint_early_stop

from seewhy.errors import ModelError
from seewhy.models.instrument.hooks import backward
from seewhy.targets import Output, Target

Rule = Callable[..., Any]

ACTIVATIONS = (
    "relu",
    "relu6",
    "hardtanh",
    "clamp",
    "leaky_relu",
    "prelu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "softplus",
    "softsign",
)
"""Functions of one number that pass relevance on as it is."""


class Ruled(torch.autograd.Function):
    """An operation with its own result and a rule for its backward: rule(inputs, upper) gives one tensor per input."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[[], Tensor], rule: Rule, *inputs: Tensor) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(*inputs)
        return compute()

    @staticmethod
    def backward(ctx: Any, upper: Tensor) -> tuple:
        return (None, None, *ctx.rule(ctx.saved_tensors, upper))


class Passed(torch.autograd.Function):
    """An operation whose backward is the identity; nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[[], Tensor], _: Tensor) -> Tensor:
        return compute()

    @staticmethod
    def backward(ctx: Any, upper: Tensor) -> tuple:
        return None, upper


class Rules(TorchFunctionMode):
    """Forwards in the block get the backward of `table`: operation name → method(func, args, kwargs) → result.

    Names are those of torch, without underscores at the ends (`add` is also `+`; `iadd` is `+=`). An operation
    without an entry keeps its gradient. Parameters take part as constants, so `requires_grad` of a tensor says that
    it depends on what is explained, and no gradient of a parameter is ever computed.
    """

    table: dict[str, Rule]

    def __init__(self) -> None:
        super().__init__()
        self._whole: list[Any] = []

    def __enter__(self) -> Rules:
        # what checkpointing computes anew is without rules; it notices only where it computes all of it
        self._whole.append(set_checkpoint_early_stop(False))
        self._whole[-1].__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._whole.pop().__exit__(None, None, None)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        args, kwargs = tree_map(_constant, (tuple(args), kwargs or {}))
        name = getattr(func, "__name__", "")
        rule = self.table.get(name.strip("_"))
        if rule is None or not torch.is_grad_enabled() or not _depends((args, kwargs)):
            return func(*args, **kwargs)
        if not _in_place(name, kwargs):
            return rule(func, args, kwargs)
        copied = args[0].clone()  # what the rule remembers must not change
        return args[0].copy_(rule(_on_a_copy(func), (copied, *args[1:]), kwargs))

    def refuse(self, func: Callable, *_: Any) -> None:
        """For an operation that no rule fits."""
        raise ModelError(
            f"LRP has no rule for {getattr(func, '__name__', func)} in this model; "
            "use input_x_gradient or integrated_gradients"
        )


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, nn.Parameter) else value


def _depends(values: Any) -> bool:
    return any(isinstance(v, Tensor) and v.requires_grad for v in tree_leaves(values))


def _in_place(name: str, kwargs: dict) -> bool:
    dunder = name.startswith("__")
    return bool(kwargs.get("inplace")) or (name.startswith("__i") if dunder else name.endswith("_"))


def _on_a_copy(func: Callable) -> Callable:
    def on_a_copy(first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return func(first.clone(), *args, **kwargs)

    on_a_copy.__name__ = func.__name__
    return on_a_copy


def depends(value: Any) -> bool:
    """Whether an argument is a tensor that depends on what is explained."""
    return isinstance(value, Tensor) and value.requires_grad


def passed(func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """The operation, with the identity as its backward."""
    return Passed.apply(lambda: func(*args, **kwargs), args[0])


Starts = Iterable[tuple[Tensor, Tensor]]


def pixel_relevance(
    x: Float[Tensor, "batch channels height width"],
    rules: Rules,
    run: Callable[[Tensor], Any],
    start: Callable[[Any], Starts],
) -> Float[Tensor, "batch channels height width"]:
    """What arrives at the pixels, by `rules`.

    Autocast is off: rules divide by activations, and what comes down spans many decades.

    Args:
        x: the batch.
        rules: of this forward.
        run: the forward, from pixels to some output.
        start: from that output to pairs of a value and what goes down from it.

    Raises:
        ModelError: the output does not depend on the pixels.
    """
    with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
        pixels = x.detach().requires_grad_()
        with rules:
            output = run(pixels.clone())
        starts = [(value, upper) for value, upper in start(output) if value.requires_grad]
        # outside of the rules: what the backward computes anew is plain, on the CPU as on the threads of a GPU
        return arrived(starts, pixels)


def arrived(starts: list[tuple[Tensor, Tensor]], at: Tensor, keep: bool = False) -> Tensor:
    """What comes down to `at`.

    Raises:
        ModelError: nothing does.
    """
    found = None
    if starts:
        values, uppers = zip(*starts, strict=True)
        found = backward(values, at, uppers, keep)[0]
    if found is None:
        raise ModelError(
            "no relevance comes down: the target is constant, or the model's forward switches gradients "
            "off (no gradient); use another target, or lafam"
        )
    return found


def slopes(output: Output, target: Target) -> list[tuple[Tensor, Tensor]]:
    """(logits or embedding, ∂ score / ∂ them): how the target begins its way down."""
    leaves = {
        name: value.detach().requires_grad_()
        for name in ("logits", "embedding")
        if (value := getattr(output, name)) is not None
    }
    with torch.enable_grad():
        score = target.score(Output(**leaves))
    if not score.requires_grad:
        return []
    found = torch.autograd.grad(score, list(leaves.values()), torch.ones_like(score), allow_unused=True)
    return [(getattr(output, name), slope) for name, slope in zip(leaves, found, strict=True) if slope is not None]
