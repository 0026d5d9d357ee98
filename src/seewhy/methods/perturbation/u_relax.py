"""U-RELAX: the importance of RELAX where it is sure."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.core.maps import spread_over
from seewhy.methods.base import method, option
from seewhy.methods.perturbation.relax_base import SimilarityUnderMasks
from seewhy.targets import Target

TIE = 1e-4
"""Relative difference of two uncertainties that float32 does not tell apart."""


@method(
    name="u_relax",
    title="U-RELAX",
    summary="The importance of RELAX in the half of the image where it is surest, nothing elsewhere.",
    needs={Capability.EMBEDDING},
    signed=False,
    class_specific=False,
    volumes=True,
    stochastic=True,
    hides=True,
    citation="Wickstrøm et al., RELAX (IJCV 2023)",
    cost=lambda self: Cost.whole(self.n_masks + 1),
)
class URELAX(SimilarityUnderMasks):
    """M_ij = R_ij where U_ij ≤ median(U), else 0, with R and U of `RELAX` from the same pass.

    The median is over the pixels of each image, the lower of the two middle ones. What is as unsure as the median up
    to rounding (`TIE`) is kept: hard cells, and few masks, make many pixels equally unsure. Autocast is switched off:
    which half is surer is decided by less than what bfloat16 rounds off.

    The published package (relax-xai) compares Σ M (s − R)², not divided by Σ M, so that pixels count as unsure where
    masks happened to show more: `uncertainty="sum"`.
    """

    uncertainty: str = option(
        default="mean",
        help="what is compared with its median: the variance, or its sum over masks (the published package)",
        choices=("mean", "sum"),
    )

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        with torch.autocast(x.device.type, enabled=False):
            importance, uncertainty, weight = self.moments(x).unbind(1)
        if self.uncertainty == "sum":
            uncertainty = uncertainty * weight
        middle = spread_over(uncertainty.flatten(1).median(1).values, x.ndim - 2)
        return torch.where(uncertainty > middle * (1 + TIE), 0, importance)  # NaN stays NaN
