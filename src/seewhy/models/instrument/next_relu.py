"""What a layer gives, or what a ReLU makes of it if one comes next that is no layer of its own but a function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from seewhy.errors import LayoutError
from seewhy.models.instrument.hooks import Stop, first_tensor, hooked, input_hooked, with_first_tensor

_RELUS = ("relu", "relu6")
_QUESTIONS = ("get", "size", "dim", "numel", "stride", "is_contiguous", "len", "is_floating_point")
"""Names of what only asks about a tensor."""


@contextmanager
def activation_of(root: nn.Module, layer: nn.Module, stop: bool = True) -> Iterator[list[Tensor]]:
    """Run the forward in the block up to the first operation on a layer's output, or (`stop=False`) to its end.

    Args:
        root: The whole model.
        layer: The layer in it.
        stop: Whether the forward ends there.

    Yields:
        A list that will hold the output, after that operation if it is a ReLU, called as a function. (A ReLU that is a
        module can be named itself.)

    Raises:
        LayoutError: The module did not run in the block.
    """
    mode = _NextOperation(stop)
    found: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(hooked(layer, mode.mark))
        for module in root.modules():
            if isinstance(module, (nn.ReLU, nn.ReLU6)) and module is not layer:
                stack.enter_context(input_hooked(module, mode.stop_at))
        stack.enter_context(suppress(Stop))
        stack.enter_context(mode)
        yield found
    value = mode.found
    if value is None:
        raise LayoutError("the layer did not run in this forward; choose another layer")
    found.append(value)


class _NextOperation(TorchFunctionMode):
    """Finds the first operation on a marked tensor; ends the forward there, or goes on.

    Attributes:
        found: The tensor, or what a ReLU made of it, if that was the operation.
    """

    def __init__(self, stop: bool) -> None:
        super().__init__()
        self._stop = stop
        self._marked: Tensor | None = None
        self.found: Tensor | None = None

    def mark(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """Be the hook of a layer: a copy goes on, so that it is known again."""
        if self.found is not None and not self._stop:
            return None
        self._marked = self.found = first_tensor(output).clone()
        return with_first_tensor(output, self._marked)

    def stop_at(self, value: Tensor) -> None:
        """End the forward at a module that gets the tensor."""
        if value is self._marked:
            self._end(value)

    def _end(self, found: Tensor) -> None:
        self.found, self._marked = found, None
        if self._stop:
            raise Stop
        self.found = found.clone()  # what follows may write into it

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        marked = self._marked
        takes_it = marked is not None and any(leaf is marked for leaf in tree_leaves((args, kwargs)))
        if marked is None or not takes_it or name in _QUESTIONS:
            return func(*args, **kwargs)
        if name not in _RELUS:
            self._end(marked)
            return func(*args, **kwargs)
        activation = func(*args, **kwargs)
        self._end(activation)
        return activation
