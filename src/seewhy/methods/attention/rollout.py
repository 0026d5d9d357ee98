"""Attention rollout: attention followed through all blocks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.errors import OptionError
from seewhy.methods.base import Method, method, option
from seewhy.models.instrument.hooks import Stop
from seewhy.targets import Target


@method(
    name="rollout",
    title="Attention rollout",
    summary="Where attention leads when it is followed through all blocks, whatever the class.",
    needs={Capability.ATTENTION, Capability.CLASS_TOKEN},
    signed=False,
    class_specific=False,
    citation="Abnar & Zuidema, Quantifying Attention Flow (ACL 2020), section 3",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(0)),
)
class Rollout(Method):
    """R ← norm(mean_heads A_b + I) R for b = start … last, R = I at first; the class token's row, patch columns.

    norm divides each row by its sum. The residual stream is taken as the identity, as in the paper.
    """

    start_block: int = option(default=0, help="the first block that counts", at_least=0)

    def setup(self) -> None:
        """Check that a block is left."""
        depth = len(self.model.structure.blocks)
        if self.start_block >= depth:
            raise OptionError(f"start_block={self.start_block} leaves no block of {depth}; use 0 to {depth - 1}")

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        last = len(self.model.structure.blocks) - 1
        products: list[Tensor] = []

        def receive(block: int, matrix: Tensor) -> None:
            mixed = matrix.float().mean(1)
            mixed = mixed + torch.eye(mixed.shape[-1], device=mixed.device)
            mixed = mixed / mixed.sum(-1, keepdim=True)
            products[:] = [mixed @ products[0] if products else mixed]
            if block == last:
                raise Stop

        with self.model.attention(receive, x, blocks=range(self.start_block, last + 1)):
            self.model.run(x)
        return self.model.tokens_to_map(products[0][:, 0], x.shape[-2:])
