"""Evidence of a trace about one score: the calls that all its information passes, and their dependence on the image."""

from __future__ import annotations

from torch import Tensor

from seewhy.models.infer.layouts import LayoutHints, Layouts
from seewhy.models.infer.trace import Call, Trace, token_axes


class Evidence:
    """A trace with what is asked of it again and again.

    Args:
        trace: The trace.
        result: What the score is made of: the logits, or the embedding.
        hints: What the user said.
    """

    def __init__(self, trace: Trace, result: Tensor, hints: LayoutHints) -> None:
        self.trace = trace
        self.result = result
        self.hints = hints
        self.layouts = Layouts(trace, hints)
        self.calls = trace.single_calls()
        self.bottlenecks = trace.bottlenecks(result)
        weighted = [c.end for c in trace.calls if any(True for _ in c.module.parameters(recurse=False))]
        self.first_weights = min(weighted, default=0)

    def is_bottleneck(self, call: Call) -> bool:
        """Tell whether all information of the score passes the call's output."""
        return call.edge is not None and call.edge.node in self.bottlenecks

    def takes_bottleneck(self, call: Call) -> bool:
        """Tell whether all information of the score passes what the call takes."""
        first = call.inputs[0] if call.inputs else None
        return first is not None and first.grad_fn is not None and first.grad_fn in self.bottlenecks

    def is_learned(self, call: Call) -> bool:
        """Tell whether a map is more than a changed image, and no pooling, after which a map is only coarser."""
        pooled = call.edge is not None and "Pool" in call.edge.node.name()
        return call.end >= self.first_weights and not pooled

    def is_token_to_token(self, call: Call, tokens: int | None = None) -> bool:
        """Tell whether a call on the way to the score takes and gives the same number of tokens (this many)."""
        given = token_axes(call.shape)
        taken = token_axes(call.inputs[0].shape) if call.inputs else None
        same = given is not None and given == taken and given.tokens == (tokens or given.tokens)
        return same and (self.is_bottleneck(call) or not self.bottlenecks)

    def tokens_of(self, call: Call) -> int:
        """Return how many tokens a call gives; 0: none."""
        axes = token_axes(call.shape)
        return axes.tokens if axes else 0

    def come_from_image(self, tokens: int) -> bool:
        """Tell whether so many tokens were made of the image when first seen: else they are learned queries."""
        differing = self.trace.differing_tokens.get(tokens)
        return differing is None or bool(differing[0].any())

    def stride(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return pixels per cell of a grid, (rows, cols)."""
        height, width = self.trace.size
        return height // grid[0], width // grid[1]

    def gradient(self, call: Call) -> Tensor | None:
        """Compute the gradient of a random mixture of the result at a call's output; None: no dependence."""
        return self.trace.gradient(self.result, call)
