"""AUC: does a pixel of the object have a higher value than one of the background?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.metrics.base import Given, Measurement, Metric, option
from seewhy.metrics.pixels import pixels
from seewhy.ranks import mean_ranks
from seewhy.registry import Ask, metric


@metric(
    name="auc",
    title="AUC",
    summary="Pixels of the object have higher values than those of the background.",
    needs={Ask.MASK},
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

    absolute: bool = option(False, "look at |value|")

    def undefined(self, maps: Float[Tensor, "batch rows cols"], given: Given) -> dict[str, Bool[Tensor, "batch"]]:
        outside = ~given.masks if given.valid is None else ~given.masks & given.valid
        return {"the mask leaves no background": ~outside.flatten(1).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], given: Given) -> Measurement:
        found = pixels(maps, given, self.absolute)
        inside = found.inside(given.masks)
        skipped = found.values.shape[1] - found.count  # they come first
        own = inside * (mean_ranks(found.ranked) - skipped[:, None])
        positive = inside.sum(1).double()
        negative = found.count - positive
        return Measurement((own.sum(1) - positive * (positive + 1) / 2) / (positive * negative))
