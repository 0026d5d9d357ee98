"""A method: gradient times input, summed over channels, as a magnitude."""

from __future__ import annotations

from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods import Method, method
from seewhy.methods.base import input_gradient
from seewhy.targets import Target


@method(
    name="plugin_gradient",
    title="Plugin gradient",
    summary="Pixels whose change changes the score.",
    needs={Capability.GRADIENTS},
    signed=False,
    class_specific=True,
    citation="seewhy-plugin",
    cost=lambda self: Cost.whole(1, 1),
)
class PluginGradient(Method):
    """|Σ_c x_c ∂f/∂x_c|."""

    scores_once = True

    def compute(self, x: Tensor, target: Target) -> Tensor:
        return (x * input_gradient(self.model, x, target)).sum(1).abs()
