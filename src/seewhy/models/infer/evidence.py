"""Evidence of a trace about one score: the calls that all its information passes, and their dependence on the image."""

from __future__ import annotations

from torch import Tensor

from seewhy.models.infer.layouts import LayoutHints, Layouts
from seewhy.models.infer.trace import BATCH, Call, Trace


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

    def is_learned(self, call: Call) -> bool:
        """Tell whether a map is more than a changed image, and no pooling, after which a map is only coarser."""
        pooled = call.edge is not None and "Pool" in call.edge.node.name()
        return call.end >= self.first_weights and not pooled

    def is_token_to_token(self, call: Call, tokens: int | None = None) -> bool:
        """Tell whether a call on the way to the score takes and gives the same number of tokens (this many)."""
        if len(call.shape) != 3 or call.shape[0] != BATCH or not call.inputs or call.inputs[0].ndim != 3:
            return False
        same = call.inputs[0].shape[1] == call.shape[1] == (tokens or call.shape[1])
        return same and (self.is_bottleneck(call) or not self.bottlenecks)

    def stride(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return pixels per cell of a grid, (rows, cols)."""
        height, width = self.trace.size
        return height // grid[0], width // grid[1]

    def gradient(self, call: Call) -> Tensor | None:
        """Compute the gradient of a random mixture of the result at a call's output; None: no dependence."""
        return self.trace.gradient(self.result, call)
