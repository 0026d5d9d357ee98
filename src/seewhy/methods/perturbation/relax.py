"""RELAX: how like itself the embedding stays when a pixel is seen, and how sure that is; no label needed."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Capability, Cost
from seewhy.methods.base import method, option
from seewhy.methods.perturbation.relax_base import SimilarityUnderMasks
from seewhy.targets import Target


@method(
    name="relax",
    title="RELAX",
    summary="How like that of the whole image the embedding is, on average, when a pixel is among those seen.",
    needs={Capability.EMBEDDING},
    signed=False,
    class_specific=False,
    volumes=True,
    stochastic=True,
    citation="Wickstrøm et al., RELAX (IJCV 2023), arXiv:2112.10161",
    cost=lambda self: Cost.whole(self.n_masks + 1),
)
class RELAX(SimilarityUnderMasks):
    """R_ij = Σ_k M_k,ij s_k / Σ_k M_k,ij,  U_ij = Σ_k M_k,ij (s_k − R_ij)² / Σ_k M_k,ij,  s_k = cos(h(x), h(x ⊙ M_k)).

    h is the embedding. Both come out of the same forwards (`both`), streamed: memory grows with the image and
    `batch_size`, not with the number of masks. The published package (relax-xai) does not divide U by Σ_k M_k, so its
    uncertainty grows with the number of masks, and most where masks happen to show more.

    A pixel that no mask shows gets the plain mean and variance of all s_k: nothing is known of it.
    """

    show: str = option(default="importance", help="which of the two maps", choices=("importance", "uncertainty"))

    def compute(self, x: Tensor, target: Target) -> Float[Tensor, "batch *grid"]:
        """Compute the maps as the class describes them."""
        return self.moments(x)[:, 0 if self.show == "importance" else 1]

    def both(
        self, x: Float[Tensor, "batch channels *size"]
    ) -> tuple[Float[Tensor, "batch *grid"], Float[Tensor, "batch *grid"]]:
        """Return importance and uncertainty of a batch from one pass, whatever `show` says.

        Args:
            x: The preprocessed batch.

        Raises:
            ModelError: When `x` is not a preprocessed batch.
            NonFiniteError: When the model gives NaN or infinity.
        """
        importance, uncertainty = self._guarded(x, None, lambda x, _: self.moments(x)[:, :2])[0].unbind(1)
        return importance, uncertainty
