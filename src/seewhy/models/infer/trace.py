"""Record one forward pass of an arbitrary module: submodule calls in order and the autograd graph of the result.

Three images go through in one batch: two that differ everywhere and one that differs from the first in its top row of
pixels only. So it shows which tokens belong to patches and how wide the grid is, and nothing is guessed from counts.
"""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from seewhy.core.io import first_line
from seewhy.errors import ModelError, SeewhyError
from seewhy.models.instrument.attention import is_attention_softmax, sdpa_arguments
from seewhy.models.instrument.hooks import untouched

BATCH = 3
"""Images in the traced batch."""
_WEIGHTED = ("Convolution", "mm", "Mm", "LayerNorm", "BatchNorm", "Linear")
"""In the names of graph nodes that may hold weights."""


@dataclass(frozen=True)
class TokenAxes:
    """How a tensor holds tokens.

    Attributes:
        tokens: How many there are.
        layout: `tokens` (batch first) or `sequence` (tokens first).
    """

    tokens: int
    layout: str


def token_axes(shape: Sequence[int]) -> TokenAxes | None:
    """Tell how a tensor of the traced batch holds tokens; None: it does not look like tokens."""
    if len(shape) != 3 or BATCH not in shape[:2]:
        return None
    return TokenAxes(shape[1], "tokens") if shape[0] == BATCH else TokenAxes(shape[0], "sequence")


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        name: The dotted name of the module.
        module: The module.
        start: When it began, in ticks.
        inputs: The tensors among its arguments.
        end: When it ended, in ticks.
        value: Its output, or the first tensor of a tuple; None: no tensor.
        edge: The place of the output in the autograd graph; None: no gradient passes it.
    """

    name: str
    module: nn.Module
    start: int
    inputs: tuple[Tensor, ...] = ()
    end: int = -1
    value: Tensor | None = None
    edge: GradientEdge | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output."""
        return () if self.value is None else tuple(self.value.shape)

    @property
    def place(self) -> object:
        """Equal for two calls whose outputs are the same thing."""
        return id(self.value) if self.edge is None else (self.edge.node, self.edge.output_nr)


@dataclass(frozen=True)
class AttentionCall:
    """Attention that was computed in the forward.

    Attributes:
        stack: The calls inside which it was computed, the outermost first.
        tokens: How many tokens attended to each other; 0: to others (cross-attention).
        time: When, in ticks.
    """

    stack: tuple[Call, ...]
    tokens: int
    time: int


@dataclass(eq=False)
class Trace:
    """Record of `trace_forward`. It keeps every activation, so it should not live long.

    Attributes:
        size: Rows and columns of the input; of volumes depth, rows and columns.
        leaf: The input.
        calls: All calls by their end.
        attention_calls: Where attention was computed.
        raw: What the module returned.
        clock: Gives the ticks.
        differing_tokens: By the number of tokens, which of them differ where the whole image does (row 0), and where
            its top row of pixels does (row 1).
    """

    size: tuple[int, ...]
    leaf: Tensor
    calls: list[Call] = field(default_factory=list)
    attention_calls: list[AttentionCall] = field(default_factory=list)
    raw: Any = None
    clock: Iterator[int] = field(default_factory=itertools.count)
    differing_tokens: dict[int, Bool[Tensor, "2 tokens"]] = field(default_factory=dict)

    def single_calls(self) -> list[Call]:
        """Return the calls of modules that ran once and gave a tensor: only those can serve as layers."""
        times = Counter(call.name for call in self.calls)
        return [call for call in self.calls if call.name and call.value is not None and times[call.name] == 1]

    def note_tokens(self, tensors: Iterable[Tensor]) -> None:
        """Remember which tokens differ between the images when that many are seen for the first time."""
        for t in tensors:
            axes = token_axes(t.shape)
            if axes and axes.tokens not in self.differing_tokens:
                first = t if axes.layout == "tokens" else t.transpose(0, 1)
                self.differing_tokens[axes.tokens] = (first[1:] != first[0]).any(-1)

    def bottlenecks(self, result: Tensor) -> set[Node]:
        """Return the graph nodes that all paths from image to result pass: never inside of a residual branch."""
        if result.grad_fn is None:
            return set()
        return _dominators(get_gradient_edge(result).node, get_gradient_edge(self.leaf).node)

    def between(self, result: Tensor, call: Call) -> set[Node]:
        """Return the graph nodes that all paths from a call's output to the result pass, the output's own left out."""
        if result.grad_fn is None or call.edge is None:
            return set()
        return _dominators(get_gradient_edge(result).node, call.edge.node) - {call.edge.node}

    def is_linear_from(self, result: Tensor, call: Call) -> bool:
        """Tell whether no weights lie between a bottleneck and the result: it is the result, or pooled to it."""
        if call.edge is None:
            return False
        return not any(_has_weights(node) for node in self.last_steps(result, call.edge.node))

    def last_steps(self, result: Tensor, before: Node | None = None) -> Iterator[Node]:
        """Yield the graph nodes of a result, backwards, up to those that may hold weights, or to one node."""
        if result.grad_fn is None:
            return
        seen = {before}
        todo = [get_gradient_edge(result).node]
        while todo:
            node = todo.pop()
            if node in seen:
                continue
            seen.add(node)
            yield node
            if not _has_weights(node):
                todo.extend(n for n, _ in node.next_functions if n is not None)

    def gradient(self, result: Tensor, call: Call) -> Tensor | None:
        """Compute the gradient of a random mixture of `result` at a call's output; None: it does not depend on it."""
        if call.edge is None or not result.requires_grad:
            return None
        mixture = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result)
        return torch.autograd.grad(result, call.edge, mixture, allow_unused=True, retain_graph=True)[0]


def trace_forward(module: nn.Module, size: tuple[int, ...]) -> Trace:
    """Run three random images through the module, in the caller's grad mode; the module is left as it was.

    Args:
        module: Any module that takes images.
        size: Channels, rows and columns of the images; of volumes channels, depth, rows and columns.

    Raises:
        ModelError: The module does not run on such images.
    """
    with untouched(module):
        leaf = _images(module, size).requires_grad_()
        trace = Trace(size[1:], leaf)
        with ExitStack() as stack:
            open_calls: list[Call] = []
            for name, part in module.named_modules():
                _watch(part, name, trace, open_calls, stack)
            stack.enter_context(_AttentionWatcher(trace, open_calls))
            try:
                trace.raw = module(leaf.clone())  # a copy: modules may normalize their input in place
            except SeewhyError:
                raise
            except Exception as error:
                raise ModelError(_why_not(module, size, error)) from error
    return trace


def _why_not(module: nn.Module, size: tuple[int, ...], error: Exception) -> str:
    """Say what a module that does not run may take instead."""
    if "argument #1 'indices'" in str(error):  # an embedding of numbers got pixels
        return (
            f"{type(module).__name__} takes indices (of tokens, or of colors), not pixels, and nothing can be "
            "differentiated by those; explain it as a function: seewhy.wrap_function(images_to_scores)"
        )
    what = "images" if len(size) == 3 else "volumes"
    failed = f"{type(module).__name__} does not run on {'×'.join(map(str, size))} {what} ({first_line(error)})"
    missing = [
        name
        for name, parameter in list(inspect.signature(module.forward).parameters.items())[1:]
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if missing:
        return (
            f"{failed}; it takes {' and '.join(missing)} beside the image: wrap a module that takes the image alone "
            "and passes the rest on"
        )
    if len(size) == 4:
        return (
            f"{failed}; volumes are (batch, channels, depth, rows, cols): of videos (batch, frames, channels, …) and "
            "of bags of tiles wrap a module that takes volumes and swaps the axes"
        )
    return (
        f"{failed}; say what it takes: wrap(module, input_size=(channels, rows, cols)), of volumes (channels, depth, "
        "rows, cols); or wrap a module of your own that makes of images what it takes"
    )


def _images(module: nn.Module, size: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, *size, generator=generator)
    images[2] = images[0]
    images[2, :, 0] += 1
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(0))
    return images.to(weight.device, weight.dtype)


def _watch(module: nn.Module, name: str, trace: Trace, open_calls: list[Call], stack: ExitStack) -> None:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = tuple(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        open_calls.append(Call(name, module, next(trace.clock), inputs))
        trace.note_tokens(inputs)
        if isinstance(module, nn.MultiheadAttention) and inputs and inputs[0].ndim == 3:
            # it hides the attention that it computes
            tokens = inputs[0].shape[1 if module.batch_first else 0]
            trace.attention_calls.append(AttentionCall(tuple(open_calls), tokens, next(trace.clock)))

    def after(_: nn.Module, __: tuple[Any, ...], ___: dict[str, Any], output: Any) -> None:
        call = open_calls.pop()
        value = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(value, Tensor):
            call.value = value
            call.edge = get_gradient_edge(value) if value.requires_grad else None
        call.end = next(trace.clock)
        trace.calls.append(call)

    stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)


class _AttentionWatcher(TorchFunctionMode):
    """Notes where attention is computed: the fused kernel, or a softmax of a square matrix."""

    def __init__(self, trace: Trace, open_calls: list[Call]) -> None:
        super().__init__()
        self.trace = trace
        self.open_calls = open_calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        sdpa = sdpa_arguments(func, args, kwargs)
        if sdpa is not None:
            queries, keys = sdpa["query"].shape[-2], sdpa["key"].shape[-2]
            self._note(queries if queries == keys else 0)
        elif is_attention_softmax(func, result) and result.shape[-1] > 1:
            self._note(result.shape[-1])
        return result

    def _note(self, tokens: int) -> None:
        # nn.MultiheadAttention is noted by its own call already
        if not any(isinstance(call.module, nn.MultiheadAttention) for call in self.open_calls):
            self.trace.attention_calls.append(AttentionCall(tuple(self.open_calls), tokens, next(self.trace.clock)))


def _has_weights(node: Node) -> bool:
    return any(word in node.name() for word in _WEIGHTED)


def _dominators(root: Node, leaf: Node) -> set[Node]:
    """Return the nodes on every path from `root` to `leaf`, by counting paths: through such a node go all of them."""
    order = _topological(root)
    to_leaf: dict[Node, int] = {}
    for node in reversed(order):
        to_leaf[node] = int(node is leaf) + sum(to_leaf[n] for n, _ in node.next_functions if n is not None)
    from_root = dict.fromkeys(order, 0)
    from_root[root] = 1
    for node in order:
        for after, _ in node.next_functions:
            if after is not None:
                from_root[after] += from_root[node]
    total = to_leaf[root]
    return {node for node in order if total and from_root[node] * to_leaf[node] == total}


def _topological(root: Node) -> list[Node]:
    """Return all nodes that `root` depends on, each before those that it depends on."""
    done: set[Node] = set()
    order: list[Node] = []
    todo: list[tuple[Node, bool]] = [(root, False)]
    while todo:
        node, finished = todo.pop()
        if finished:
            order.append(node)
        elif node not in done:
            done.add(node)
            todo.append((node, True))
            todo.extend((n, False) for n, _ in node.next_functions if n is not None and n not in done)
    return order[::-1]
