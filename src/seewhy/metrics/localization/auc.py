"""AUC: does a pixel of the object have a higher value than one of the background?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.core.maps import mean_ranks
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.inputs import required
from seewhy.metrics.masked_values import pixels


@metric(
    name="auc",
    title="AUC",
    summary="Pixels of the object have higher values than those of the background.",
    needs={Requirement.MASK},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Fawcett, An introduction to ROC analysis (2006); of pixels: LaFAM (2024), arXiv:2407.06059",
    monotone_invariant=True,
)
class AUC(Metric):
    """ROC AUC: the probability that a pixel inside the mask has a higher value than one outside, ties counted half.

    By ranks (Mann-Whitney): (Σ ranks inside − P(P+1)/2) / (P·N), equal values sharing their mean rank. A constant map
    gets 0.5. A mask that covers everything leaves nothing to compare with: no score.
    """

    absolute: bool = option(default=False, help="look at |value|")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the masks that cover everything."""
        masks = required(inputs.masks, "masks")
        outside = ~masks if inputs.valid is None else ~masks & inputs.valid
        return {"the mask leaves no background": ~outside.flatten(1).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the area under the ROC curve."""
        flat = pixels(maps, inputs, self.absolute)
        inside = flat.inside(inputs.masks)
        skipped = flat.values.shape[1] - flat.count  # they have the lowest ranks
        rank_sum = (inside * (mean_ranks(flat.ranked) - skipped[:, None])).sum(1)
        positive = inside.sum(1).double()
        negative = flat.count - positive
        return Measurement((rank_sum - positive * (positive + 1) / 2) / (positive * negative))
