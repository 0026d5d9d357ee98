"""Parts of a forward: what is above a layer, and the tokens of blocks with a way to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.io import first_line
from seewhy.errors import LayoutError, ModelError
from seewhy.models.instrument.class_row import Attend, NoClassRow, Projections, RowAttention
from seewhy.models.instrument.hooks import NO_GRADIENT, backward, hooked, replaced_forward, with_first_tensor
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


class ClassTokenTail:
    """The part of a model above the tokens of its last block, for the class token alone.

    One more token goes along with it, so that it shows whether anything but the class token is read.

    Args:
        forward: One forward of the whole model.
        tail: What was recorded below.
        norm: The block's first norm, if the cut is below it.
        attention: The block's attention.

    Attributes:
        norm: The same.
    """

    def __init__(
        self, forward: Callable[[Tensor], Output], tail: Tail, norm: nn.Module | None, attention: nn.Module
    ) -> None:
        self._forward = forward
        self._tail = tail
        self.norm = norm
        self._attention = RowAttention(attention)
        self._is_sound = False

    @property
    def value(self) -> Float[Tensor, "batch tokens dim"]:
        """The tokens at the cut, without gradients."""
        return self._tail.value

    def normed(self, tokens: Float[Tensor, "rows tokens dim"]) -> Float[Tensor, "rows tokens dim"]:
        """Return what the attention gets of tokens at the cut."""
        return tokens if self.norm is None else self.norm(tokens)

    def __call__(
        self,
        at_cut: Float[Tensor, "rows dim"],
        normed: Float[Tensor, "rows dim"],
        attend: Attend,
    ) -> Output:
        """Run the class tokens alone: n whole batches of them, one after the other.

        Args:
            at_cut: The class tokens at the cut.
            normed: The same after the first norm.
            attend: From the class tokens' queries to their mixed values, outside of autograd; called once. From its
                result on, `mixed`, the run has gradients.

        Raises:
            NoClassRow: The block cannot be run so.
        """
        beside = self.value[0, 1].expand_as(at_cut)
        at_cut, normed = torch.stack([at_cut, beside], 1), torch.stack([normed, beside], 1)

        def put(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            return with_first_tensor(output, normed.clone())

        row, with_attention = self._tail.first_tokens(2), self._attention.replaced(attend, self.value)
        with torch.no_grad(), row.put(at_cut, as_views=True) as x, with_attention, ExitStack() as stack:
            if self.norm is not None:
                stack.enter_context(replaced_forward(self.norm, lambda *_, **__: normed))
                stack.enter_context(hooked(self.norm, put))  # after the user's own hooks
            try:
                return self._forward(x)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, AssertionError, IndexError) as error:  # its code wants all tokens
                raise NoClassRow(f"it does not run on two tokens ({first_line(error)})") from error

    def gradient(self, score: Float[Tensor, "rows"]) -> tuple[Float[Tensor, "rows heads head_dim"], Projections]:
        """Return ∂ Σ score / ∂ the mixed values of the last run, and the projections of the attention.

        Raises:
            NoClassRow: The run is no run of the model: the projections are not affine, or another token is read.
        """
        mixed, projections = self._attention.mixed, self._attention.projections
        assert mixed is not None  # of the run before
        assert projections is not None
        (grad,) = backward(score, mixed, torch.ones_like(score)) if score.requires_grad else (None,)
        if grad is None:
            raise ModelError(NO_GRADIENT)
        if not self._is_sound:  # one synchronization, because a map of a wrong formula would look like any other
            sound = torch.stack([projections.fits, (grad[:, :, 1] == 0).all()]).tolist()
            if not sound[0]:
                raise NoClassRow("queries, keys or values are not affine in the tokens (QK-norm, rotary positions)")
            if not sound[1]:
                raise NoClassRow("the head reads more than the class token")
            self._is_sound = True
        return grad[:, :, 0], projections


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
