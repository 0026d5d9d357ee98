"""ARCC: coherent, simple and faithful at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.core.maps import is_constant, normalize
from seewhy.methods.base import Method
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.faithfulness.perturbation import NOT_FINITE
from seewhy.metrics.faithfulness.road import ROAD
from seewhy.metrics.inputs import required
from seewhy.metrics.recompute import recompute_maps


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

    percentages: Sequence[float] = option(default=(20, 40, 60, 80), help="shares of the pixels that ROAD removes (%)")
    seed: int = option(default=0, help="of ROAD's noise")
    upsampling: str = option(
        default="bilinear",
        help="how the maps came to the input's size; the masked image's map is resized in the same way",
        choices=("bilinear", "nearest", "bicubic"),
    )
    batch_size: int = option(
        default=32, help="images per forward pass (memory against speed; the values are the same)", at_least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._road = ROAD(percentages=self.percentages, seed=self.seed, batch_size=self.batch_size)
        self.percentages = self._road.percentages

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the constant maps."""
        return {"the map is the same everywhere": is_constant(_evidence(maps, required(inputs.method, "method")))}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the three parts and their harmonic mean."""
        _, x, target = inputs.model_inputs
        method = required(inputs.method, "method")
        normalized = normalize(_evidence(maps, method).double(), signed=False)
        masked_images = x * normalized[:, None].to(x.dtype)
        masked_maps = _evidence(recompute_maps(method, masked_images, target, maps, self.upsampling), method)
        road = self._road.compare(maps, inputs)
        parts = {
            "coherency": (1 + _correlation(masked_maps, normalized)) / 2,
            "complexity": normalized.mean((1, 2)),
            "road": (2 * road.value).clamp(0, 1),
        }
        terms = torch.stack([parts["coherency"], 1 - parts["complexity"], parts["road"]])
        value = 3 / terms.reciprocal().sum(0)  # 1/0 is infinite, and 3 over it 0
        reasons = {i: NOT_FINITE for i, nan in enumerate(value.isnan().tolist()) if nan}
        return Measurement(value, parts, {}, reasons)


def _evidence(maps: Tensor, method: Method) -> Tensor:
    """Return the positive part of signed maps, others as they are."""
    return maps.clamp(min=0) if method.is_signed else maps


def _correlation(a: Float[Tensor, "batch rows cols"], b: Float[Tensor, "batch rows cols"]) -> Float[Tensor, "batch"]:
    """Return Pearson's r over the pixels; 0 if one of the maps is constant."""
    constant = is_constant(a) | is_constant(b)
    a, b = (maps.flatten(1).double() for maps in (a, b))
    a, b = (values - values.mean(1, keepdim=True) for values in (a, b))
    r = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    return r.where(~constant, 0.0).clamp(-1, 1)
