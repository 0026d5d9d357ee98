"""Label-free maps of a ViT, tried out beside LaFAM. None of them is part of seewhy."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost, Passes
from seewhy.core.maps import upcast
from seewhy.methods.base import Method, method, option
from seewhy.models.structure import Layer
from seewhy.targets import Target

CHOICES = ("cosine", "principal", "degree", "ncut")


def _inward(values: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
    """Choose the sign with which the edge of the image is low."""
    edge = torch.cat([values[0], values[-1], values[:, 0], values[:, -1]])
    return values if edge.mean() < values.mean() else -values


@method(
    name="token_affinity",
    title="Token affinity",
    summary="How much a token differs from the image, by one of several affinities.",
    needs={Capability.TOKENS},
    signed=False,
    class_specific=False,
    citation="Siméoni et al., LOST (BMVC 2021); Wang et al., TokenCut (CVPR 2022); after them",
    cost=lambda self: Cost.split(below=Passes(1), above=Passes(0)),
)
class TokenAffinity(Method):
    """Maps of the tokens T of the last block's norm1, with Z = T / ‖T‖.

    `cosine`: 1 − cos(T_i, mean T). `principal`: first principal component. `degree`: minus how many tokens are similar
    (Z Zᵀ > 0), as LOST's seeds. `ncut`: second eigenvector of the normalized cut of Z Zᵀ > 0.2, as TokenCut. Where a
    sign is open, the edge of the image is low.
    """

    by: str = option(default="cosine", help="which affinity", choices=CHOICES)

    def setup(self) -> None:
        """Settle the layer."""
        self.layer_: Layer = self.model.cam_layer()

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        features = upcast(self.model.activation(x, self.layer_))
        return torch.stack([self._one(each.flatten(1).T).view(each.shape[1:]) for each in features]).float()

    def _one(self, tokens: Float[Tensor, "n channels"]) -> Tensor:
        side = round(len(tokens) ** 0.5)
        if self.by == "cosine":
            return 1 - F.cosine_similarity(tokens, tokens.mean(0, keepdim=True))
        if self.by == "principal":
            centered = tokens - tokens.mean(0)
            return _inward(
                (centered @ torch.linalg.svd(centered, full_matrices=False)[2][0]).view(side, side)
            ).flatten()
        unit = F.normalize(tokens, dim=1).double()
        if self.by == "degree":
            return -(unit @ unit.T > 0).sum(1).double()
        weights = torch.where(unit @ unit.T > 0.2, 1.0, 1e-5)
        scale = weights.sum(1).rsqrt()
        cut = torch.linalg.eigh(torch.eye(len(unit)).double() - weights * scale[:, None] * scale)[1][:, 1] * scale
        return _inward(cut.view(side, side)).flatten()


@method(
    name="class_token_similarity",
    title="Similarity to the class token",
    summary="cos of every patch token to the class token after the last block.",
    needs={Capability.TOKENS, Capability.CLASS_TOKEN},
    signed=False,
    class_specific=False,
    citation="After Siméoni et al., LOST (BMVC 2021)",
    cost=lambda self: Cost.whole(1),
)
class ClassTokenSimilarity(Method):
    """cos(T_i, T_class) after the last block."""

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch rows cols"]:
        """Compute the maps as the class describes them."""
        kept: list[Any] = []
        block = self.model.submodule(self.model.structure.blocks[-1].name)
        handle = block.register_forward_hook(lambda module, args, output: kept.append(output))
        try:
            self.model.run(x)
        finally:
            handle.remove()
        tokens = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
        return self.model.tokens_to_map(F.cosine_similarity(tokens, tokens[:, :1], dim=-1), x.shape[-2:])
