"""Opening up a model and leaving it as it came.

Everything that touches a user's module lives here: hooks, modes, instance-level replacement of `forward`.
Nothing is patched process-wide, and each context manager undoes its work in `finally`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from seewhy.errors import LayoutError, ModelError
from seewhy.models.instrument.locks import exclusive

ForwardHook = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""What torch calls after a forward: `hook(module, arguments, output)`; a result other than None replaces the output."""


class Stop(Exception):  # noqa: N818 (not an error: the forward is done)
    """Raised by a hook to end a forward that has served its purpose; never seen by users."""


INFERENCE = "weights that were made inside torch.inference_mode (make the module outside of it)"
"""For messages: what gradients do not pass."""


NO_GRADIENT = (
    "the score has no gradient: the target is constant, the layer does not lead to it, or the model's forward switches "
    "gradients off; use another target or layer, or lafam"
)
"""For messages."""


def made_in_inference_mode(module: nn.Module) -> bool:
    """Tell whether autograd refuses some of the weights or buffers, for good."""
    tables = ((m._parameters, m._buffers) for m in module.modules())
    return any(t is not None and t.is_inference() for pair in tables for table in pair for t in table.values())


def backward(
    values: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    output_gradients: Tensor | Sequence[Tensor],
    keep: bool = False,
) -> tuple[Tensor | None, ...]:
    """Compute vector-Jacobian products without touching any `.grad`.

    Args:
        values: What is differentiated.
        inputs: With respect to what.
        output_gradients: The vectors, one for each of `values`.
        keep: Whether another backward through the same graph follows.

    Returns:
        One gradient for each of `inputs`; None where `values` do not depend on it.

    Raises:
        ModelError: The model recomputes parts of itself in the backward, where no hook of ours is active.
    """
    try:
        return torch.autograd.grad(values, inputs, output_gradients, allow_unused=True, retain_graph=keep)
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower():
            raise
        raise ModelError(
            "the model runs parts of its forward again in the backward (activation checkpointing), which "
            "this method cannot follow; switch that off in the model, or use occlusion"
        ) from error


_PLAIN_TYPES = (bool, int, float, str, tuple, type(None))


_INSIDE: ContextVar[frozenset[int]] = ContextVar("untouched", default=frozenset())


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Run `module` in eval mode and put back modes, buffers, plain attributes and the global random state afterwards.

    Other threads that want the same module wait until the block ends. A block inside another one of the same module
    adds nothing.

    Plain attributes (numbers, words, flags) because a forward may write them too: the Swin of transformers shrinks
    its own window for a small image, for good.

    Buffers are copied (batch-norm statistics: small beside one feature map) because a forward may write to them.
    Parameters are never written and `.grad` never filled: gradients come from `torch.autograd.grad`.
    """
    if id(module) in _INSIDE.get():
        yield
        return
    with exclusive(module), _put_back(module):
        token = _INSIDE.set(_INSIDE.get() | {id(module)})
        try:
            yield
        finally:
            _INSIDE.reset(token)


@contextmanager
def _put_back(module: nn.Module) -> Iterator[None]:
    before: list[tuple[dict[str, Any], dict[str, Any], dict[str, Tensor | None], set[str]]] = []
    buffers: list[Tensor] = []
    devices: set[int] = set()
    for m in module.modules():  # once: a model of small layers has hundreds
        own, table = vars(m), m._buffers
        before.append((own, own.copy(), table.copy(), m._non_persistent_buffers_set.copy()))
        devices.update(p.device.index for p in m._parameters.values() if p is not None and p.is_cuda)
        # an expanded buffer (stride 0) cannot be written in place, and a copy into it would fail
        buffers += [b for b in table.values() if b is not None and not b.is_inference() and 0 not in b.stride()]
    copies = [buffer.clone() for buffer in buffers]
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            for own, *_ in before:
                own["training"] = False
            yield
    finally:
        for own, old, table, non_persistent in before:
            own["training"] = old["training"]
            if not _same_values(own, old):
                own.update({key: value for key, value in old.items() if type(value) in _PLAIN_TYPES})
            own["_buffers"].clear()
            own["_buffers"].update(table)
            own["_non_persistent_buffers_set"] = non_persistent
        if buffers:
            # always, because batch norm in training does not raise the version counter; through `.data`, so that
            # this write does not either, and a backward that the caller has still to do goes on
            torch._foreach_copy_([buffer.data for buffer in buffers], copies)  # pyright: ignore[reportPrivateImportUsage]


def _same_values(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Tell whether two tables of attributes are equal; what cannot be compared is not."""
    try:
        return a == b
    except Exception:  # a tensor among them that is another now
        return False


def first_tensor(value: Any) -> Tensor:
    """Return the tensor of a layer's output: itself, or the first of a tuple.

    Raises:
        LayoutError: The output holds no tensor in first place.
    """
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(first, Tensor):
        raise LayoutError(f"the layer returns {type(value).__name__}, not a tensor; choose another layer")
    return first


def with_first_tensor(value: Any, new: Tensor) -> Any:
    """Return `value` with its first tensor replaced by `new`."""
    if hasattr(value, "_replace"):  # a named tuple
        return value._replace(**{value._fields[0]: new})
    if isinstance(value, (tuple, list)):
        return type(value)([new, *value[1:]])
    return new


@contextmanager
def hooked(module: nn.Module, hook: ForwardHook) -> Iterator[None]:
    """Register a forward hook for the length of the block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def is_plain_layer_norm(module: nn.Module | None) -> TypeGuard[nn.LayerNorm]:
    """Tell whether a module is torch's layer norm over the last dimension, and nobody hooked or replaced anything."""
    return (
        type(module) is nn.LayerNorm
        and len(module.normalized_shape) == 1
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
    )


@contextmanager
def running(modules: Iterable[nn.Module], tell: Callable[[bool], None]) -> Iterator[None]:
    """In the block, call `tell(True)` when one of the modules begins to run, and `tell(False)` when it has ended.

    A module inside another of them does not count by itself.
    """
    depth = 0

    def change(by: int) -> None:
        nonlocal depth
        depth += by
        tell(depth > 0)

    with ExitStack() as stack:
        for module in set(modules):
            stack.callback(module.register_forward_pre_hook(lambda *_: change(1)).remove)
            stack.callback(module.register_forward_hook(lambda *_: change(-1)).remove)
        yield


@contextmanager
def input_hooked(module: nn.Module, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """In the block, let `change` see the module's first argument, and replace it by what it returns (None: nothing).

    Raises:
        LayoutError: The module's first argument is no tensor.
    """

    def hook(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        key = None if args else next(iter(kwargs), None)
        value = args[0] if args else kwargs.get(key or "")
        if not isinstance(value, Tensor):
            raise LayoutError(f"the layer gets {type(value).__name__} first, not a tensor; choose another layer")
        new = change(value)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if key is None else (args, {**kwargs, key: new})

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace `forward` on this one instance for the length of the block."""
    previous = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if previous is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = previous


@contextmanager
def collecting(modules: Mapping[str, nn.Module], stop: bool = True) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of `modules` by name (copies: a later in-place ReLU must not change them).

    Args:
        modules: The modules by the name under which their output is wanted.
        stop: Whether the forward ends (`Stop`, swallowed here) as soon as all outputs are there.

    Yields:
        A dict that the forward in the block fills.

    Raises:
        LayoutError: A module did not run in the block.
    """
    outputs: dict[str, Tensor] = {}

    def hook_for(name: str) -> ForwardHook:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            outputs[name] = first_tensor(output).clone()
            if stop and len(outputs) == len(modules):
                raise Stop

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(hooked(module, hook_for(name)))
        with suppress(Stop):
            yield outputs
    _ensure_all_ran(modules, outputs)


@contextmanager
def tapping(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Hand out the outputs of `modules` by name, attached to the graph of the forward in the block.

    Each is the very tensor on the way to the result, so it can be differentiated and differentiated by; the forward
    goes on with a copy, so that an in-place operation above does not reach it.

    Args:
        modules: The modules by the name under which their output is wanted.

    Yields:
        A dict that the forward in the block fills.

    Raises:
        LayoutError: A module did not run in the block, or more than once.
    """
    outputs: dict[str, Tensor] = {}

    def hook_for(name: str) -> ForwardHook:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            if name in outputs:
                raise LayoutError(f"layer {name!r} runs more than once in a forward; choose one that runs once")
            outputs[name] = first_tensor(output)
            return with_first_tensor(output, outputs[name].clone())

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(hooked(module, hook_for(name)))
        yield outputs
    _ensure_all_ran(modules, outputs)


def _ensure_all_ran(modules: Mapping[str, nn.Module], outputs: Mapping[str, Tensor]) -> None:
    missing = sorted(set(modules) - set(outputs))
    if missing:
        raise LayoutError(f"layer {missing[0]!r} did not run in this forward; choose another layer")


@contextmanager
def cut(module: nn.Module, at_input: bool = False) -> Iterator[list[Tensor]]:
    """Cut the graph at the output of `module` (or its input): no gradients below, gradients above.

    The forward in the block starts in no-grad mode. At the layer the output becomes a leaf and grad mode is switched
    on for what follows; the mode from before returns at the end. The forward goes on with a copy, so an in-place
    operation above does not reach the leaf.

    Args:
        module: The layer.
        at_input: Whether the leaf is the layer's input (its first argument).

    Yields:
        A list that will hold the leaf.

    Raises:
        LayoutError: The layer did not run in the block, or more than once.
    """
    leaf: list[Tensor] = []

    def begin(value: Tensor) -> Tensor:
        if leaf:
            raise LayoutError("the layer runs more than once in a forward; choose one that runs once")
        torch.set_grad_enabled(True)
        leaf.append(value.detach().clone().requires_grad_())
        return leaf[0].clone()

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return with_first_tensor(output, begin(first_tensor(output)))

    with torch.no_grad(), input_hooked(module, begin) if at_input else hooked(module, hook):
        yield leaf
    if not leaf:
        raise LayoutError("the layer did not run in this forward; choose another layer")
