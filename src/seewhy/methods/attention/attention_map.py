"""Attention map: where the class token looks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.errors import OptionError
from seewhy.methods.base import Method, method, option
from seewhy.models.instrument.hooks import Stop
from seewhy.targets import Output, Target


@method(
    name="attention_map",
    title="Attention map",
    summary="Where the class token looks in the last block, whatever the class.",
    needs={Capability.ATTENTION, Capability.CLASS_TOKEN},
    signed=False,
    class_specific=False,
    citation="Caron et al., DINO (ICCV 2021); Brocki et al., arXiv:2312.02364, section 3",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(0)),
)
class AttentionMap(Method):
    """The class token's row of the softmaxed attention over the patch tokens, mean over heads.

    Not renormalized: what is missing to one is the attention paid to prefix tokens. Only the class token's row is
    formed, and the forward ends there; the fused kernel stays in place.
    """

    block: int = option(default=-1, help="which block, counted from the end if negative")
    head: int | None = option(default=None, help="one head; default: the mean over all", at_least=0)

    def heads(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch heads rows cols"]:
        """Return one map for each head, from one forward, whatever `head` says.

        Args:
            x: The preprocessed batch.

        Raises:
            ModelError: When `x` is no preprocessed batch.
            NonFiniteError: When the model gives NaN or infinity.
        """

        def maps_of_heads(x: Tensor, _: Target) -> Tensor:
            rows = self._attend(x).unbind(1)
            return torch.stack([self.model.tokens_to_map(row, x.shape[-2:]) for row in rows], 1)

        return self._guarded(x, None, maps_of_heads)[0]

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        return self._map(self._attend(x), x)

    def complete(self, x: Tensor) -> tuple[Float[Tensor, "batch rows cols"], Output]:
        """Compute the maps in a forward that goes on to the answer."""
        rows: list[Tensor] = []

        def receive(_: int, matrix: Tensor) -> None:
            rows.append(matrix[..., 0, :])

        with self.model.attention(receive, x, blocks=[self.block], rows=slice(0, 1)):
            output = self.model.run(x)
        return self._map(rows[0].float(), x), output

    def _map(self, attention: Float[Tensor, "batch heads tokens"], x: Tensor) -> Float[Tensor, "batch rows cols"]:
        if self.head is not None and self.head >= attention.shape[1]:
            heads = attention.shape[1]
            raise OptionError(f"head={self.head} does not exist; this block has {heads}: use 0 to {heads - 1}")
        row = attention.mean(1) if self.head is None else attention[:, self.head]
        return self.model.tokens_to_map(row, x.shape[-2:])

    def _attend(self, x: Tensor) -> Float[Tensor, "batch heads tokens"]:
        rows: list[Tensor] = []

        def receive(_: int, matrix: Tensor) -> None:
            rows.append(matrix[..., 0, :])
            raise Stop

        with self.model.attention(receive, x, blocks=[self.block], rows=slice(0, 1)):
            self.model.run(x)
        return rows[0].float()
