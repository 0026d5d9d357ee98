"""Pointing Game: is the highest pixel on the object?"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.masked_values import pixels


@metric(
    name="pointing_game",
    title="Pointing Game",
    summary="The map's highest pixel lies on the object.",
    needs={Requirement.MASK},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Zhang et al., Top-down Neural Attention by Excitation Backprop (2018)",
    monotone_invariant=True,
)
class PointingGame(Metric):
    """1 if the maximum lies in the mask, else 0; with several maxima the share of them that lies inside.

    A constant map gets the mask's share of the image. Of a map of 7×7 cells brought to 224 by nearest neighbor the
    maximum is 1024 pixels: with `ties="any"` (Quantus, the LaFAM paper) one of them on the object is a hit, and a
    constant map always hits. Differs from Quantus also where the mask is empty: NaN here, a hit there (its NaN is
    written into an array of booleans). The paper's tolerance of 15 pixels is not given.
    """

    ties: str = option(
        default="share", help="several maxima: the share of them inside, or a hit if any is", choices=("share", "any")
    )
    absolute: bool = option(default=False, help="look at |value|")

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the share of the maxima in the mask."""
        flat = pixels(maps, inputs, self.absolute)
        top = flat.ranked == flat.ranked.amax(1, keepdim=True)
        hits = (top & flat.inside(inputs.masks)).sum(1).double()
        return Measurement((hits > 0).double() if self.ties == "any" else hits / top.sum(1))
