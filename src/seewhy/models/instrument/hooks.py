"""Opening up a model and leaving it as it came.

Everything that touches a user's module lives here: hooks, modes, instance-level replacement of `forward`.
Nothing is patched process-wide, and each context manager undoes its work in `finally`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.errors import LayoutError, ModelError


class Stop(Exception):  # noqa: N818 (not an error: the forward is done)
    """Raised by a hook to end a forward that has served its purpose; never seen by users."""


INFERENCE = "weights that were made inside torch.inference_mode (make the module outside of it)"


def made_in_inference_mode(module: nn.Module) -> bool:
    """Whether autograd refuses some of its weights or buffers, for good."""
    return any(t.is_inference() for t in chain(module.parameters(), module.buffers()))


def backward(
    values: Tensor | Sequence[Tensor],
    at: Tensor | Sequence[Tensor],
    uppers: Tensor | Sequence[Tensor],
    keep: bool = False,
) -> tuple[Tensor | None, ...]:
    """What comes down to each of `at`, None where nothing does; with `keep` another backward can follow.

    Raises:
        ModelError: the model computes parts of itself anew in the backward, where nobody watches.
    """
    try:
        return torch.autograd.grad(values, at, uppers, allow_unused=True, retain_graph=keep)
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower():
            raise
        raise ModelError(
            "the model runs parts of its forward again in the backward (activation checkpointing), which "
            "this method cannot follow; switch that off in the model, or use occlusion"
        ) from error


_PLAIN = (bool, int, float, str, tuple, type(None))


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Run `module` in eval mode and put back modes, buffers, plain attributes and the global random state afterwards.

    Plain attributes (numbers, words, flags) because a forward may write them too: the Swin of transformers shrinks
    its own window for a small image, for good.

    Buffers are copied (batch-norm statistics: small beside one feature map) because a forward may write to them.
    Parameters are never written and `.grad` never filled: gradients come from `torch.autograd.grad`.
    """
    plain = [(m, {k: v for k, v in vars(m).items() if type(v) in _PLAIN}) for m in module.modules()]
    tables = [(m, dict(m._buffers), set(m._non_persistent_buffers_set)) for m, _ in plain]
    buffers = [
        (b, b.clone())
        for _, table, _ in tables
        for b in table.values()
        if b is not None and not b.is_inference() and 0 not in b.stride()
    ]
    cuda = {p.device.index for p in module.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=sorted(cuda)):
            for m, _ in plain:
                m.training = False
            yield
    finally:
        for m, values in plain:
            vars(m).update(values)
        for m, table, hidden in tables:
            m._buffers.clear()
            m._buffers.update(table)
            m._non_persistent_buffers_set = hidden
        for original, copy in buffers:
            # always, because batch norm in training does not raise the version counter; through `.data`, so that
            # this write does not either, and a backward that the caller has still to do goes on
            original.data.copy_(copy)


def first_tensor(value: Any) -> Tensor:
    """The tensor of a layer's output: itself, or the first of a tuple.

    Raises:
        LayoutError: the output holds no tensor in first place.
    """
    head = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(head, Tensor):
        raise LayoutError(f"the layer returns {type(value).__name__}, not a tensor; choose another layer")
    return head


def with_first_tensor(value: Any, new: Tensor) -> Any:
    """`value` with its first tensor replaced."""
    if hasattr(value, "_replace"):  # a named tuple
        return value._replace(**{value._fields[0]: new})
    if isinstance(value, (tuple, list)):
        return type(value)([new, *value[1:]])
    return new


@contextmanager
def hooked(module: nn.Module, hook: Callable[[nn.Module, tuple, Any], Any]) -> Iterator[None]:
    """A forward hook for the length of the block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace `forward` on this one instance for the length of the block."""
    had = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if had is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = had


@contextmanager
def collecting(modules: dict[str, nn.Module], stop: bool = True) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of `modules` by name (copies: a later in-place ReLU must not change them).

    With `stop`, the forward ends (`Stop`, swallowed here) as soon as all are there.
    """
    found: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, tuple, Any], None]:
        def hook(_: nn.Module, __: tuple, output: Any) -> None:
            found[name] = first_tensor(output).clone()
            if stop and len(found) == len(modules):
                raise Stop

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(hooked(module, hook_for(name)))
        with suppress(Stop):
            yield found
    missing = set(modules) - set(found)
    if missing:
        raise LayoutError(f"layer {sorted(missing)[0]!r} did not run in this forward; choose another layer")


@contextmanager
def cut(module: nn.Module) -> Iterator[list[Tensor]]:
    """Cut the graph at the output of `module`: no gradients below, gradients above.

    To be used around a forward that starts in no-grad mode. At the layer the output becomes a leaf (the yielded
    list then holds it) and grad mode is switched on for what follows; the mode from before returns at the end.
    The forward goes on with a copy, so an in-place operation above does not reach the leaf.
    """
    leaf: list[Tensor] = []

    def hook(_: nn.Module, __: tuple, output: Any) -> Any:
        if leaf:
            raise LayoutError("the layer runs more than once in a forward; choose one that runs once")
        torch.set_grad_enabled(True)
        leaf.append(first_tensor(output).detach().clone().requires_grad_())
        return with_first_tensor(output, leaf[0].clone())

    with torch.no_grad(), hooked(module, hook):
        yield leaf
    if not leaf:
        raise LayoutError("the layer did not run in this forward; choose another layer")


def _map_tensors(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """Apply `fn` to every tensor in nested tuples, lists and dicts (model outputs of transformers are dicts)."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, dict):
        new = value.copy()
        for key, item in value.items():
            new[key] = _map_tensors(item, fn)
        return new
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_tensors(v, fn) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(v, fn) for v in value)
    return value


_NO_MORE = object()


class Tail:
    """The part of a model above one layer, to be run many times after the part below ran once.

    The modules beside the path to the layer (for `blocks.11.norm1`: the patch embedding, blocks 0…10, …) run once,
    up to the layer; in each later run they return what they returned then, repeated for the larger batch, and the
    layer returns the given values. So no adapter has to know how its model goes on after the layer.

    Attributes:
        value: the layer's output for the batch, without gradients.
    """

    def __init__(self, module: nn.Module, layer: str, x: Tensor, call: dict[str, Any] | None = None) -> None:
        self._module, self._x, self._call = module, x, call or {}
        self._layer = module.get_submodule(layer)
        self._beside = list(_beside(module, layer))
        self._records: dict[nn.Module, list[Any]] = {}
        self._batch = x.shape[0]
        self._layer_output: Any = None
        self._record()
        self.value: Tensor = first_tensor(self._layer_output)

    def _record(self) -> None:
        def record(module: nn.Module) -> Callable[..., Any]:
            forward = module.forward

            def run(*args: Any, **kwargs: Any) -> Any:
                output = forward(*args, **kwargs)
                # a copy, because an in-place operation may follow
                self._records.setdefault(module, []).append(_map_tensors(output, Tensor.clone))
                return output

            return run

        def at_layer(_: nn.Module, __: tuple, output: Any) -> None:
            self._layer_output = _map_tensors(output, Tensor.clone)
            raise Stop

        with torch.no_grad(), ExitStack() as stack:
            for module in self._beside:
                stack.enter_context(replaced_forward(module, record(module)))
            stack.enter_context(hooked(self._layer, at_layer))
            try:
                self._module(self._x, **self._call)
            except Stop:
                return
        raise LayoutError("the layer did not run in this forward; choose another layer")

    @contextmanager
    def put(self, values: Tensor) -> Iterator[Tensor]:
        """In the block, calling the module with the yielded input runs only what is above the layer, on `values`.

        `values` is `n` whole batches one after the other, shape (n·B, …).
        """
        n = values.shape[0] // self._batch

        def tiled(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 or tensor.shape[0] != self._batch:
                return tensor.clone()
            return tensor.repeat(n, *[1] * (tensor.ndim - 1))

        def replay(module: nn.Module, outputs: list[Any]) -> Callable[..., Any]:
            forward, calls = module.forward, iter(outputs)

            def run(*args: Any, **kwargs: Any) -> Any:
                output = next(calls, _NO_MORE)
                return forward(*args, **kwargs) if output is _NO_MORE else _map_tensors(output, tiled)

            return run

        def layer(_: nn.Module, __: tuple, output: Any) -> Any:
            return with_first_tensor(output, values.clone())

        with ExitStack() as stack:
            for module, outputs in self._records.items():
                stack.enter_context(replaced_forward(module, replay(module, outputs)))
            stack.enter_context(replaced_forward(self._layer, lambda *_, **__: _map_tensors(self._layer_output, tiled)))
            # by a hook, after the user's own hooks, whose work is in the recorded value already
            stack.enter_context(hooked(self._layer, layer))
            yield tiled(self._x)


def _beside(module: nn.Module, layer: str) -> Iterator[nn.Module]:
    """The modules that are children of an ancestor of `layer`, but not ancestors (or the layer) themselves."""
    node = module
    for part in layer.split("."):
        onward = getattr(node, part)
        yield from (child for child in node.children() if child is not onward)
        node = onward
