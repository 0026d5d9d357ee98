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
def activation_of(root: nn.Module, layer: nn.Module) -> Iterator[list[Tensor]]:
    """Run the forward in the block up to the first operation on a layer's output.

    Args:
        root: The whole model.
        layer: The layer in it.

    Yields:
        A list that will hold the output, after that operation if it is a ReLU, called as a function. (A ReLU that is a
        module can be named itself.)

    Raises:
        LayoutError: The module did not run in the block.
    """
    mode = _NextOperation()
    found: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(hooked(layer, mode.mark))
        for module in root.modules():
            if isinstance(module, (nn.ReLU, nn.ReLU6)) and module is not layer:
                stack.enter_context(input_hooked(module, mode.stop_at))
        stack.enter_context(suppress(Stop))
        stack.enter_context(mode)
        yield found
    value = mode.marked if mode.activation is None else mode.activation
    if value is None:
        raise LayoutError("the layer did not run in this forward; choose another layer")
    found.append(value)


class _NextOperation(TorchFunctionMode):
    """Ends a forward at the first operation on a marked tensor.

    Attributes:
        marked: The tensor.
        activation: What a ReLU made of it, if that was the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.marked: Tensor | None = None
        self.activation: Tensor | None = None

    def mark(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """Be the hook of a layer: a copy goes on, so that it is known again."""
        self.marked = first_tensor(output).clone()
        return with_first_tensor(output, self.marked)

    def stop_at(self, value: Tensor) -> None:
        """End the forward at a module that gets the tensor."""
        if value is self.marked:
            raise Stop

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        takes_it = self.marked is not None and any(leaf is self.marked for leaf in tree_leaves((args, kwargs)))
        if not takes_it or name in _QUESTIONS:
            return func(*args, **kwargs)
        if name in _RELUS:
            self.activation = func(*args, **kwargs)
        raise Stop
