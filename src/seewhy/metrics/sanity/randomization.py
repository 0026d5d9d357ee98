"""Model randomization: how much of a map is left when the model has lost what it learned."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.core.maps import is_constant, spearman, ssim
from seewhy.methods.rebind import rebind
from seewhy.metrics.base import Measurement, Metric, MetricInputs, metric, option
from seewhy.metrics.inputs import required
from seewhy.metrics.recompute import recompute_maps
from seewhy.models.instrument.randomize import layer_groups, parametrized_modules, randomized_models


@metric(
    name="randomization",
    title="Model randomization",
    summary="Low when the map changes as the model loses, from the head down, what it has learned.",
    needs={Requirement.MODEL, Requirement.METHOD},
    bounds=(-1.0, 1.0),
    higher_is_better=False,
    citation="Adebayo et al., Sanity Checks for Saliency Maps (2018), section 3.1",
    passes=lambda self: self.n_steps + 1,
    parts={"untrained": False, "ssim": False},
    monotone_invariant=True,
    stochastic=True,
)
class Randomization(Metric):
    """S = (1/K) Σ_k ρ(M, M_k), ρ the rank correlation of the map M with the map M_k of the k-th random model.

    The models are those of `seewhy.models.instrument.randomize`: of model 1 the head is random, of model K every
    weight. The target stays what it was on the trained model. A map that hardly changes (S near 1) does not explain
    this model.

    Parts: `untrained`, ρ with the model that has no trained weight left (the untrained model of NAVE: what
    does the map owe to training?); `ssim`, the mean structural similarity of the displayed maps (Adebayo's second
    measure; 7×7 windows, each map normalized by itself). Curves: ρ ("") and SSIM ("ssim") by model. A model with fewer
    layers than `n_steps` fills fewer points, the others are NaN, as is a model that gives NaN; means leave them out.

    A random model's constant map (a CAM whose ReLU leaves nothing) shares nothing with the trained one: ρ = 0, where
    Quantus has NaN. A constant trained map has no value. Otherwise ρ is that of Quantus' MPRT (layer order `top_down`)
    with one step for each layer; its average also counts the trained model's own map, with 1, ours does not. Its eMPRT
    compares complexities, not maps, and is something else.

    Passes: `n_steps` + 1, each as many as the method itself needs for a map, and with its gradients.
    """

    n_steps: int = option(
        default=7,
        help="random models: the first has a random head, the last random weights only",
        at_least=2,
        repeats=True,
    )
    seed: int = option(default=0, help="of the random weights")
    upsampling: str = option(
        default="bilinear",
        help="how the maps came to the input's size; the random models' maps are resized in the same way",
        choices=("bilinear", "nearest", "bicubic"),
    )

    @property
    def axis(self) -> list[float]:
        """The number of each random model, from 1."""
        return [float(k) for k in range(1, self.n_steps + 1)]

    @property
    def axis_title(self) -> str:
        """The label of the abscissa."""
        return f"random models, from a random head (1) to random weights only ({self.n_steps})"

    def undefined(
        self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs
    ) -> dict[str, Bool[Tensor, "batch"]]:
        """Return the constant maps."""
        return {"the map is the same everywhere": is_constant(maps)}

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the similarities with the maps of the random models."""
        model, x, target = inputs.model_inputs
        method = required(inputs.method, "method")
        layers = parametrized_modules(model, x[:1])
        groups = layer_groups(layers, self.n_steps)
        correlations = maps.new_full((len(maps), self.n_steps), torch.nan, dtype=torch.float64)
        similarities = correlations.clone()
        for k, (_, randomized) in enumerate(randomized_models(model, groups, self.seed)):
            randomized_maps = recompute_maps(rebind(method, randomized), x, target, maps, self.upsampling)
            correlations[:, k] = _rank_correlation(maps, randomized_maps)
            similarities[:, k] = ssim(maps, randomized_maps, method.is_signed)
        last = min(self.n_steps, len(layers)) - 1
        value = correlations.nanmean(1)
        reasons = {i: "every random model gives NaN" for i, nan in enumerate(value.isnan().tolist()) if nan}
        parts = {"untrained": correlations[:, last], "ssim": similarities.nanmean(1)}
        return Measurement(value, parts, {"": correlations, "ssim": similarities}, reasons)


def _rank_correlation(maps: Tensor, randomized_maps: Tensor) -> Float64[Tensor, "batch"]:
    """Return ρ; 0 for a constant map, NaN for one with NaN."""
    rho = spearman(maps, randomized_maps).where(~is_constant(randomized_maps), 0.0)
    return rho.where(torch.isfinite(randomized_maps).flatten(1).all(1), torch.nan)
