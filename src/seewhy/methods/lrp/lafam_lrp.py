"""LaFAM-LRP: what the embedding is made of, pixel by pixel and without a label."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.methods.base import method, option
from seewhy.methods.lrp.layer_rules import COMPOSITES
from seewhy.methods.lrp.lrp import COMPOSITE, LayerwiseRelevance
from seewhy.methods.lrp.modes import Starts, pixel_relevance
from seewhy.models.instrument.hooks import Stop
from seewhy.models.structure import read_tensor
from seewhy.targets import Target


@method(
    name="lafam_lrp",
    title="LaFAM-LRP",
    summary="Which pixels the embedding is made of, whatever the class.",
    needs={Capability.EMBEDDING, Capability.GRADIENTS},
    signed=True,
    class_specific=False,
    citation="Karjauv, Unsupervised Feature Attribution for Foundation Models (2025): LaFAM with LRP",
    cost=lambda self: Cost.split(below=Passes(1, 1), above=Passes(0)) if self._stops else Cost.whole(1, 1),
)
class LaFAMLRP(LayerwiseRelevance):
    """LRP that starts at the embedding e with R = e, so that Σ R = Σ e up to biases; rules as in `LRP`.

    The forward of a classifier ends before its head, which takes no part. The source does not name its rules; ours
    are those of ε-γ-z^B. With `epsilon_plus_flat` and an embedding after a ReLU nothing in the map is negative.
    """

    composite: str = option(default="epsilon_gamma_box", help=COMPOSITE, choices=tuple(COMPOSITES))
    epsilon: float = option(default=1e-6, help="added to denominators, with their sign", at_least=0)
    gamma: float = option(default=0.25, help="how much more positive weights count in the γ rule", at_least=0)

    @property
    def _stops(self) -> bool:
        """Whether the embedding is what comes to the head, and not something made of the result."""
        return self.model.structure.head is not None and self.model.structure.read is read_tensor

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""

        def start(embedding: Tensor) -> Starts:
            return [(embedding, embedding.detach())]

        return pixel_relevance(x, self.rules(x), self._embedding, start).float().sum(1)

    def _embedding(self, pixels: Tensor) -> Float[Tensor, "batch dim"]:
        head = self.model.structure.head
        if head is None or not self._stops:
            return self.model.run(pixels).require(Capability.EMBEDDING)
        embeddings: list[Tensor] = []

        def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
            embeddings.append(args[0].flatten(1))
            raise Stop

        handle = self.model.submodule(head).register_forward_pre_hook(stop)
        try:
            self.model.run(pixels)
        except Stop:
            pass
        finally:
            handle.remove()
        return embeddings[0]
