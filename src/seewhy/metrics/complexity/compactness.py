"""Compactness: how much of the map is next to nothing?"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.errors import OptionError
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import pixels


@metric(
    name="compactness",
    title="Compactness",
    summary="Most of the map is next to nothing, compared with its maximum.",
    needs=set(),
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Brocki et al., Class-Discriminative Attention Maps (2024), arXiv:2312.02364, table 3",
)
class Compactness(Metric):
    """Share of the values with |s| ≤ t·max |s|, t = 0.05.

    The paper writes "smaller than 5 % of the maximum value" and leaves open what becomes of negative values, so the
    variants have names: `magnitude` |s| ≤ t·max |s|; `signed_maximum` |s| ≤ t·max s; `signed` s ≤ t·max s, where every
    negative value counts as next to nothing. They agree for maps without negative values. No score for a map of
    zeros, nor, for the last two, for one without a positive value.
    """

    t: float = option(default=0.05, help="share of the maximum", at_least=0)
    variant: str = option(
        default="magnitude", help="what becomes of negative values", choices=("magnitude", "signed_maximum", "signed")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.t < 1:
            raise OptionError(f"t={self.t!r} counts every pixel; use less than 1")

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the maps of zeros, or without a positive value."""
        if self.variant == "magnitude":
            return {"every pixel that counts is zero": ~pixels(maps, inputs).values.any(1)}
        return {"no pixel that counts is positive": ~(pixels(maps, inputs).values > 0).any(1)}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the share of values near zero."""
        signed, magnitude = pixels(maps, inputs), pixels(maps, inputs, absolute=True)
        compared = signed if self.variant == "signed" else magnitude
        maximum = (magnitude if self.variant == "magnitude" else signed).ranked.amax(1, keepdim=True)
        small = (compared.values <= self.t * maximum) & compared.valid
        return Measurement(small.sum(1).double() / compared.count)
