"""Running a model with another backward for some of its operations.

A `TorchFunctionMode`, local to the block and thread, sees every operation of the forward and lets it compute what it
always computes; only the way back is replaced. So the user's module is neither copied nor changed, nothing is patched,
the logits are the same bits, and operations are seen also where a model writes them as plain code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import set_checkpoint_early_stop

Operation = Callable[..., Any]
"""A function of torch, as a mode sees it."""
Handler = Callable[[Operation, tuple[Any, ...], dict[str, Any]], Any]
"""What a mode does in place of `operation(*args, **kwargs)`."""
Backward = Callable[[tuple[Tensor, ...], Tensor], Iterable[Tensor]]
"""From saved tensors and what comes down to the result, to what goes down to each input."""


def with_backward(
    compute: Callable[[], Tensor], backward: Backward, *inputs: Tensor, saved: tuple[Tensor, ...] | None = None
) -> Tensor:
    """Compute a result, and give it another way back.

    Args:
        compute: The operation; it runs without autograd.
        backward: Its backward, called with the saved tensors and what comes down to the result.
        *inputs: The tensors that it hands something down to.
        saved: What is kept for it; the inputs by default.

    Returns:
        What `compute` returns, differentiable by `backward`.
    """
    return _ReplacedBackward.apply(compute, backward, inputs if saved is None else saved, *inputs)


def pass_through(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Run the operation with the identity as its backward; nothing is kept for it."""
    return with_backward(lambda: operation(*args, **kwargs), lambda _, upper: (upper,), args[0], saved=())


class BackwardMode(TorchFunctionMode):
    """In the block, operations that `handlers` names get the backward that their handler gives them.

    Names are those of torch, without underscores at the ends (`add` is also `+`; `iadd` is `+=`). An operation
    without an entry keeps its gradient. Parameters take part as constants, so `requires_grad` of a tensor says that
    it depends on what is explained, and no gradient of a parameter is ever computed. A handler never sees an operation
    in place: it gets a copy of the tensor, and its result is written back.

    Attributes:
        handlers: Operation name → handler; set by subclasses.
    """

    handlers: dict[str, Handler]

    def __init__(self) -> None:
        super().__init__()
        self._checkpoint_contexts: list[AbstractContextManager[None]] = []

    def __enter__(self) -> BackwardMode:
        # What checkpointing computes anew has no handlers; it notices that only where it computes all of it.
        context = set_checkpoint_early_stop(False)
        context.__enter__()
        self._checkpoint_contexts.append(context)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._checkpoint_contexts.pop().__exit__(None, None, None)

    def __torch_function__(
        self, func: Operation, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args = tree_map(_as_constant, tuple(args))
        kwargs = {key: tree_map(_as_constant, value) for key, value in (kwargs or {}).items()}
        name = getattr(func, "__name__", "")
        handler = self.handlers.get(name.strip("_"))
        if handler is None or not torch.is_grad_enabled() or not _any_tracked((args, kwargs)):
            return func(*args, **kwargs)
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        if not _is_in_place(name, kwargs):
            return handler(func, args, kwargs)
        # Autograd itself differentiates `copy_`, views included. The handler may keep its input: hence the copy.
        return args[0].copy_(handler(_out_of_place(func), (args[0].clone(), *args[1:]), kwargs))


def is_tracked(value: Any) -> bool:
    """Tell whether an argument is a tensor that depends on what is explained."""
    return isinstance(value, Tensor) and value.requires_grad


class _ReplacedBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compute: Callable[[], Tensor], backward: Backward, saved: tuple[Tensor, ...], *inputs: Tensor
    ) -> Tensor:
        ctx.replacement = backward
        ctx.save_for_backward(*saved)
        return compute()

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] # torch types the arguments of any function
        ctx: Any, upper: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (None, None, None, *ctx.replacement(ctx.saved_tensors, upper))


def _as_constant(value: Any) -> Any:
    return value.detach() if isinstance(value, nn.Parameter) else value


def _any_tracked(values: Any) -> bool:
    return any(is_tracked(value) for value in tree_leaves(values))


def _is_in_place(name: str, kwargs: dict[str, Any]) -> bool:
    is_operator = name.startswith("__")
    return bool(kwargs.get("inplace")) or (name.startswith("__i") if is_operator else name.endswith("_"))


def _out_of_place(operation: Operation) -> Operation:
    def on_a_copy(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        return operation(first.clone(), *args, **kwargs)

    on_a_copy.__name__ = getattr(operation, "__name__", "")
    return on_a_copy
