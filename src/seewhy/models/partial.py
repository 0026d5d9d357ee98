"""Parts of a forward: what is above a layer, and the tokens of blocks with a way to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from seewhy.errors import LayoutError
from seewhy.models.instrument.tail import Tail
from seewhy.targets import Output


class ModelTail:
    """The part of a model above one layer: from values at the layer to an `Output`.

    Args:
        forward: One forward of the whole model.
        tail: What was recorded below the layer.
    """

    def __init__(self, forward: Callable[[Tensor], Output], tail: Tail) -> None:
        self._forward = forward
        self._tail = tail

    @property
    def value(self) -> Tensor:
        """The layer's output for the batch, without gradients."""
        return self._tail.value

    def __call__(self, values: Tensor) -> Output:
        """Run the part above the layer on `values`, (n·B, …): n whole batches one after the other.

        Raises:
            LayoutError: It is called from a hook that fires in this very run.
        """
        with self._tail.put(values) as x:
            return self._forward(x)


@dataclass(frozen=True)
class BlockTokens:
    """One forward of a transformer with the tokens of its blocks (`VisionModel.block_tokens`).

    Attributes:
        tokens: By the number of the block, its output (B, N, dim), prefix tokens included, attached to the graph of
            the forward if it ran in grad mode.
        output: The output of that same forward.
    """

    tokens: Mapping[int, Float[Tensor, "batch tokens dim"]]
    output: Output
    _tail: ModelTail

    def read_out(self, tokens: Float[Tensor, "rows tokens dim"]) -> Output:
        """Read tokens as if they were the last block's output: final norm, pooling and head on them (logit lens).

        Nothing below the last block runs again. In grad mode the result is differentiable with respect to `tokens`
        and to what they were computed from.

        Args:
            tokens: Tokens of any block, (n·B, N, dim): n whole batches one after the other.

        Raises:
            LayoutError: The tokens are not those of whole batches, or it is called from a hook of the model.
        """
        expected = self._tail.value
        if tokens.shape[1:] != expected.shape[1:] or len(tokens) % len(expected):
            raise LayoutError(
                f"tokens of shape {tuple(tokens.shape)} cannot be read out; "
                f"pass (n·{len(expected)}, {', '.join(map(str, expected.shape[1:]))}), the shape of the last block"
            )
        return self._tail(tokens)
