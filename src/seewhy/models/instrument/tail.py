"""Run what is above one layer of a model many times, after what is below it ran once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.errors import LayoutError
from seewhy.models.instrument.hooks import Stop, first_tensor, hooked, input_hooked, replaced_forward, with_first_tensor

_NO_MORE = object()


class Tail:
    """The part of a model above one layer.

    The modules beside the path to the layer (for `blocks.11.norm1`: the patch embedding, blocks 0…10, …) run once,
    up to the layer; in each later run they return what they returned then, repeated for the larger batch, and the
    layer returns the given values, or (`at_input`) runs on them. So no adapter has to know how its model goes on after
    the layer.

    Args:
        module: The whole model.
        layer: The dotted name of the layer.
        x: The batch.
        at_input: Whether the cut is at the layer's input (its first argument), so that the layer itself runs each time.

    Attributes:
        value: The layer's output (or input) for the batch, without gradients.
    """

    value: Tensor

    def __init__(self, module: nn.Module, layer: str, x: Tensor, at_input: bool = False) -> None:
        self._at_input = at_input
        self._x = x
        self._batch = x.shape[0]
        self._layer = module.get_submodule(layer)
        self._beside = list(_beside(module, layer))
        self._records: dict[nn.Module, list[Any]] = {}
        self._at_layer: Any = None
        self._replaying = False

    @classmethod
    def of(
        cls, module: nn.Module, layer: str, x: Tensor, call: dict[str, Any] | None = None, at_input: bool = False
    ) -> Tail:
        """Run what is below the layer, without gradients, and return the tail.

        Args:
            module: The whole model.
            layer: The dotted name of the layer.
            x: The batch.
            call: Further keywords of the model's call.
            at_input: Whether the cut is at the layer's input.

        Raises:
            LayoutError: The layer did not run.
        """
        tail = cls(module, layer, x, at_input)
        with torch.no_grad(), tail.recording(stop=True):
            module(x, **(call or {}))
        return tail

    @contextmanager
    def recording(self, stop: bool = False) -> Iterator[None]:
        """Record, in a forward of the model that the caller runs in the block, what is below the layer.

        Args:
            stop: Whether the forward ends at the layer (it raises `Stop`) or goes on to its end.

        Raises:
            LayoutError: The layer did not run in the block.
        """

        def record(module: nn.Module) -> Callable[..., Any]:
            forward = module.forward

            def run(*args: Any, **kwargs: Any) -> Any:
                output = forward(*args, **kwargs)
                if self._at_layer is None:
                    self._records.setdefault(module, []).append(_map_tensors(output, _detached_copy))
                return output

            return run

        def keep(value: Any) -> None:
            if self._at_layer is None:
                self._at_layer = _map_tensors(value, _detached_copy)
            if stop:
                raise Stop

        with ExitStack() as stack:
            for module in self._beside:
                stack.enter_context(replaced_forward(module, record(module)))
            if self._at_input:
                stack.enter_context(input_hooked(self._layer, keep))
            else:
                stack.enter_context(hooked(self._layer, lambda _, __, output: keep(output)))
            if stop:
                stack.enter_context(suppress(Stop))
            yield
        if self._at_layer is None:
            raise LayoutError("the layer did not run in this forward; choose another layer")
        self.value = first_tensor(self._at_layer)

    def first_tokens(self, n: int) -> Tail:
        """Return the same tail for the first n tokens alone: of all token sequences that were recorded, the first."""
        tokens, part = self.value.shape[1], copy.copy(self)

        def first(value: Tensor) -> Tensor:
            return value[:, :n].contiguous() if value.ndim == 3 and value.shape[1] == tokens else value

        part._records = {module: [_map_tensors(o, first) for o in outputs] for module, outputs in self._records.items()}
        part._at_layer = _map_tensors(self._at_layer, first)
        part.value = first(self.value)
        return part

    @contextmanager
    def put(self, values: Tensor, as_views: bool = False) -> Iterator[Tensor]:
        """In the block, calling the module with the yielded input runs only what is above the layer, on `values`.

        Args:
            values: `n` whole batches of the layer's values one after the other, shape (n·B, …).
            as_views: Whether what was recorded of a single image is not copied; an operation that writes there fails.

        Yields:
            The input to call the module with.

        Raises:
            LayoutError: The block is entered from a hook that fires in a run of the same tail: it would never end.
        """
        if self._replaying:
            raise LayoutError(
                "a hook on this model runs the part above a layer while that part is running; "
                "collect the values first, and run it after the forward"
            )
        repeats = values.shape[0] // self._batch

        def tiled(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 or tensor.shape[0] != self._batch:
                return tensor.clone()
            if as_views and self._batch == 1:
                return tensor.expand(repeats, *tensor.shape[1:])
            return tensor.repeat(repeats, *[1] * (tensor.ndim - 1))

        def replay(module: nn.Module, outputs: list[Any]) -> Callable[..., Any]:
            forward, recorded = module.forward, iter(outputs)

            def run(*args: Any, **kwargs: Any) -> Any:
                output = next(recorded, _NO_MORE)
                return forward(*args, **kwargs) if output is _NO_MORE else _map_tensors(output, tiled)

            return run

        def layer_forward(*_: Any, **__: Any) -> Any:
            return _map_tensors(self._at_layer, tiled)

        def put_values(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            return with_first_tensor(output, values.clone())

        self._replaying = True
        try:
            with ExitStack() as stack:
                for module, outputs in self._records.items():
                    stack.enter_context(replaced_forward(module, replay(module, outputs)))
                # by a hook, after the user's own hooks, whose work is in the recorded value already
                if self._at_input:
                    stack.enter_context(input_hooked(self._layer, lambda _: values.clone()))
                else:
                    stack.enter_context(replaced_forward(self._layer, layer_forward))
                    stack.enter_context(hooked(self._layer, put_values))
                yield tiled(self._x)
        finally:
            self._replaying = False


def _detached_copy(tensor: Tensor) -> Tensor:
    """Copy a tensor, because an in-place operation may follow, and leave its graph behind."""
    return tensor.detach().clone()


def _map_tensors(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """Apply `fn` to every tensor in nested tuples, lists and dicts (model outputs of transformers are dicts)."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, dict):
        new = value.copy()
        for key, entry in value.items():
            new[key] = _map_tensors(entry, fn)
        return new
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_tensors(v, fn) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(v, fn) for v in value)
    return value


def _beside(module: nn.Module, layer: str) -> Iterator[nn.Module]:
    """Yield the children of each ancestor of `layer` that are not on the path to it themselves."""
    ancestor = module
    for part in layer.split("."):
        onward = getattr(ancestor, part)
        yield from (child for child in ancestor.children() if child is not onward)
        ancestor = onward
