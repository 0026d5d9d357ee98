"""ROAD: remove pixels so that nothing but their information is gone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.methods.base import make_generator
from seewhy.metrics.base import Measurement, MetricInputs, metric, option
from seewhy.metrics.faithfulness.imputation import impute
from seewhy.metrics.faithfulness.perturbation import GOALS, ModelMetric, increasing, places, scores


@metric(
    name="road",
    title="ROAD",
    summary="The class survives when the least relevant pixels are imputed, and is lost when the most relevant are.",
    needs={Requirement.MODEL},
    bounds=(-0.5, 0.5),
    higher_is_better=True,
    citation="Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods (ICML 2022)",
    passes=lambda self: 2 * len(self.percentages),
    parts={"morf": False, "lerf": True},
    monotone_invariant=True,
    stochastic=True,
)
class ROAD(ModelMetric):
    """(LeRF − MoRF) / 2, each the mean over `percentages` of p_c after the p % least (most) relevant pixels are gone.

    A removed pixel becomes the mean of its neighbors (`imputation.impute`) plus a little noise, so that the shape of
    the removed region does not give the class away. p_c is the probability of the class; with `read="accuracy"` whether
    the class is the model's answer, whose mean over images is the paper's curve and Quantus' (MoRF). The combination
    is that of the grad-cam package's `ROADCombined`.

    Pixels are ranked, never thresholded: p % of the pixels go, also from a map that is zero nearly everywhere. Quantus
    ranks channel values, and takes only images of one channel. The noise is one image from `seed`, the same everywhere.
    """

    percentages: Sequence[float] = option((10, 20, 30, 40, 50, 60, 70, 80, 90), "shares of the pixels removed (%)")
    noise: float = option(0.01, "standard deviation of the noise, in units of the model's input", at_least=0)
    read: str = option("probability", "what is read off the model", choices=("probability", "logit", "accuracy"))
    seed: int = option(0, "seed of the noise")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.percentages = increasing(self.percentages, "percentages", 0, 100)

    @property
    def axis(self) -> list[float]:
        return [float(p) for p in self.percentages]

    @property
    def axis_title(self) -> str:
        return "pixels removed (%)"

    def compare(self, maps: Tensor, given: MetricInputs) -> Measurement:
        turns = [places(maps, first) for first in ("most", "least")]
        counts = torch.tensor([int(maps[0].numel() * p / 100) for p in self.percentages]).to(maps.device)[:, None, None]
        generator = make_generator(self.seed, torch.device("cpu"))
        noise = self.noise * torch.randn(given.x.shape[1:], generator=generator).to(given.x.device)
        each = len(self.percentages)

        def fill(i: int, start: int, stop: int, out: Tensor) -> None:
            removed = torch.cat([turn[i] < counts for turn in turns])[start:stop]
            out.copy_(self._without(given.x[i], removed, noise))

        found = scores(given, GOALS[self.read](given), 2 * each, fill, self.batch_size)
        morf, lerf = found.split(each, 1)
        parts = {"morf": morf.mean(1), "lerf": lerf.mean(1)}
        return Measurement(
            (parts["lerf"] - parts["morf"]) / 2, parts, {"": (lerf - morf) / 2, "morf": morf, "lerf": lerf}
        )

    def _without(
        self, image: Tensor, removed: Bool[Tensor, "variants height width"], noise: Tensor
    ) -> Float[Tensor, "variants channels height width"]:
        gone = removed[:, None]
        return torch.where(gone, impute(image, removed) + noise, image)
