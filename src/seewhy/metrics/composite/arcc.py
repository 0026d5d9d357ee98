"""ARCC: coherent, simple and faithful at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.core.maps import is_constant, normalize
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.faithfulness.perturbation import NOT_FINITE
from seewhy.metrics.faithfulness.road import ROAD
from seewhy.metrics.recompute import maps_again


@metric(
    name="arcc",
    title="ARCC",
    summary="The map stays the same when it masks the image, covers little, and points at what the class needs.",
    needs={Requirement.MODEL, Requirement.METHOD},
    bounds=(0.0, 1.0),
    higher_is_better=True,
    citation="Domeniconi et al., How to Evaluate and Refine your CAM (2026); coherency and complexity: Poppi et al., "
    "Revisiting The Evaluation of Class Activation Mapping for Explainability (2021)",
    passes=lambda self: 1 + 2 * len(self.percentages),
    parts={"coherency": True, "complexity": False, "road": True},
    stochastic=True,
)
class ARCC(Metric):
    """3 / (1/coherency + 1/(1 − complexity) + 1/road), the harmonic mean of three numbers from 0 to 1; 0 if one is 0.

    m is the map, min-max normalized to [0, 1] (from a signed method its positive part: evidence against the class hides
    pixels as no evidence does).

    coherency = (1 + r(M(x ⊙ m), m)) / 2: the correlation (Pearson) of the map with that of the image which it masks
    (0 is the model's mean color, as x is preprocessed); r = 0 where the new map is constant.
    complexity = Σ m / pixels.
    road = LeRF − MoRF, negative values as 0: twice our `road`, the mean over `percentages` of the class's probability
    without the least relevant pixels minus that without the most relevant.

    Coherency and complexity are those of the grad-cam package's ARCC; ROAD differs by its imputation (see `road`), and
    that package adds 1e-8 to every denominator. A map that is the same everywhere has no value.

    Passes: one map of the method, which may need more than one, and two for each percentage.
    """

    percentages: tuple[float, ...] = option((20, 40, 60, 80), "shares of the pixels that ROAD removes (%)")
    seed: int = option(0, "of ROAD's noise")
    upsampling: str = option(
        "bilinear",
        "how the maps came to the input's size; done to the masked image's map too",
        choices=("bilinear", "nearest", "bicubic"),
    )
    batch_size: int = option(32, "images per forward pass (memory against speed; the values are the same)", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._road = ROAD(percentages=self.percentages, seed=self.seed, batch_size=self.batch_size)
        self.percentages = self._road.percentages

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        return {"the map is the same everywhere": is_constant(_evidence(maps, given))}

    def score(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Measurement:
        shown = normalize(_evidence(maps, given).double(), signed=False)
        masked = given.x * shown[:, None].to(given.x.dtype)
        again = maps_again(given.method, masked, given.target, tuple(maps.shape[1:]), self.upsampling)
        again = _evidence(again, given)
        found = self._road.compare(maps, given)
        parts = {
            "coherency": (1 + _correlation(again, shown)) / 2,
            "complexity": shown.mean((1, 2)),
            "road": (2 * found.value).clamp(0, 1),
        }
        terms = torch.stack([parts["coherency"], 1 - parts["complexity"], parts["road"]])
        value = 3 / terms.reciprocal().sum(0)  # 1/0 is infinite, and 3 over it 0
        reasons = {i: NOT_FINITE for i, bad in enumerate(value.isnan().tolist()) if bad}
        return Measurement(value, parts, {}, reasons)


def _evidence(maps: Tensor, given: MetricInputs) -> Tensor:
    return maps.clamp(min=0) if given.method.card.signed else maps


def _correlation(a: Float[Tensor, "batch rows cols"], b: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch"]:
    """Pearson's r over the pixels; 0 if one of the maps is constant."""
    flat = is_constant(a) | is_constant(b)
    a, b = (m.flatten(1).double() for m in (a, b))
    a, b = (m - m.mean(1, keepdim=True) for m in (a, b))
    r = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    return r.where(~flat, 0.0).clamp(-1, 1)
