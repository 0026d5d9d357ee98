"""Model randomization: how much of a map is left when the model has forgotten what it learnt."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.core.maps import is_constant, spearman, ssim
from seewhy.methods.rebind import rebind
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.recompute import maps_again
from seewhy.models.instrument.randomize import layer_groups, parametrized_modules, randomized_models


@metric(
    name="randomization",
    title="Model randomization",
    summary="Low when the map changes as the model forgets, from the head down, what it has learnt.",
    needs={Requirement.MODEL, Requirement.METHOD},
    bounds=(-1.0, 1.0),
    higher_is_better=False,
    citation="Adebayo et al., Sanity Checks for Saliency Maps (2018), section 3.1",
    passes=lambda self: self.steps + 1,
    parts={"untrained": False, "ssim": False},
    monotone_invariant=True,
    stochastic=True,
)
class Randomization(Metric):
    """S = (1/K) Σ_k ρ(M, M_k), ρ the rank correlation of the map M with the map M_k of the k-th random model.

    The models are those of `seewhy.models.instrument.randomize`: of model 1 the head is random, of model K every weight. The target stays
    what it was on the trained model. A map that hardly changes (S near 1) does not explain this model.

    Parts: `untrained`, ρ with the model that has no trained weight left (the untrained model of NAVE: what
    does the map owe to training?); `ssim`, the mean structural similarity of the displayed maps (Adebayo's second
    measure; 7×7 windows, each map normalized by itself). Curves: ρ ("") and SSIM ("ssim") by model. A model with fewer
    layers than `steps` fills fewer points, the others are NaN, as is a model that gives NaN; means leave them out.

    A random model's constant map (a CAM whose ReLU leaves nothing) shares nothing with the trained one: ρ = 0, where
    Quantus has NaN. A constant trained map has no value. Otherwise ρ is that of Quantus' MPRT (layer order `top_down`)
    with one step for each layer; its average also counts the trained model's own map, with 1, ours does not. Its eMPRT
    compares complexities, not maps, and is something else.

    Passes: `steps` + 1, each as many as the method itself needs for a map, and with its gradients.
    """

    steps: int = option(
        7, "random models: the first has a random head, the last random weights only", at_least=2, repeats=True
    )
    seed: int = option(0, "of the random weights")
    upsampling: str = option(
        "bilinear",
        "how the maps came to the input's size; done to the random models' maps too",
        choices=("bilinear", "nearest", "bicubic"),
    )

    @property
    def axis(self) -> list[float]:
        return [float(k) for k in range(1, self.steps + 1)]

    @property
    def axis_title(self) -> str:
        return f"random models, from a random head (1) to random weights only ({self.steps})"

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        return {"the map is the same everywhere": is_constant(maps)}

    def score(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Measurement:
        names = parametrized_modules(given.model, given.x[:1])
        ranks = maps.new_full((len(maps), self.steps), torch.nan, dtype=torch.float64)
        looks = ranks.clone()
        for k, (_, random) in enumerate(randomized_models(given.model, layer_groups(names, self.steps), self.seed)):
            tool = rebind(given.method, random)
            found = maps_again(tool, given.x, given.target, tuple(maps.shape[1:]), self.upsampling)
            ranks[:, k], looks[:, k] = _rank_correlation(maps, found), ssim(maps, found, given.method.card.signed)
        done = min(self.steps, len(names)) - 1
        value = ranks.nanmean(1)
        reasons = {i: "every random model gives NaN" for i, bad in enumerate(value.isnan().tolist()) if bad}
        return Measurement(
            value, {"untrained": ranks[:, done], "ssim": looks.nanmean(1)}, {"": ranks, "ssim": looks}, reasons
        )


def _rank_correlation(maps: Tensor, found: Tensor) -> Float[Tensor, "batch"]:
    """ρ; 0 for a constant map, NaN for one with NaN."""
    alike = spearman(maps, found).where(~is_constant(found), 0.0)
    return alike.where(torch.isfinite(found).flatten(1).all(1), torch.nan)
