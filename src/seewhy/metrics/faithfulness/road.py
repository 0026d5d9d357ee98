"""ROAD: remove pixels so that nothing but their information is gone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seewhy.core.cards import Requirement
from seewhy.methods.base import make_generator
from seewhy.metrics.base import Measurement, MetricInputs, metric, option
from seewhy.metrics.faithfulness.imputation import impute
from seewhy.metrics.faithfulness.perturbation import READOUTS, ModelMetric, check_increasing, score_variants
from seewhy.metrics.faithfulness.perturbation_order import rank_pixels


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
    the removed region does not give the class away. p_c is the probability of the class; with `read_out="accuracy"`
    whether the class is the model's answer, whose mean over images is the paper's curve and Quantus' (MoRF). The
    combination is that of the grad-cam package's `ROADCombined`.

    Pixels are ranked, never thresholded: p % of the pixels go, also from a map that is zero nearly everywhere. Quantus
    ranks channel values, and takes only images of one channel. The noise
    is one noise image from `seed`, the same everywhere.
    """

    percentages: Sequence[float] = option(
        default=(10, 20, 30, 40, 50, 60, 70, 80, 90), help="shares of the pixels removed (%)"
    )
    noise: float = option(
        default=0.01, help="standard deviation of the noise, in units of the model's input", at_least=0
    )
    read_out: str = option(
        default="probability", help="what is read off the model", choices=("probability", "logit", "accuracy")
    )
    seed: int = option(default=0, help="seed of the noise")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.percentages = check_increasing(self.percentages, "percentages", 0, 100)

    @property
    def axis(self) -> list[float]:
        """The percentages."""
        return [float(p) for p in self.percentages]

    @property
    def axis_title(self) -> str:
        """The label of the abscissa."""
        return "pixels removed (%)"

    def compare(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        """Compute the mean scores without the most and the least relevant pixels."""
        model_inputs = inputs.model_inputs
        x = model_inputs.x
        ranks = [rank_pixels(maps, first) for first in ("most", "least")]
        counts = [int(maps[0].numel() * percentage / 100) for percentage in self.percentages]
        removed_counts = torch.tensor(counts).to(maps.device)[:, None, None]
        generator = make_generator(self.seed, torch.device("cpu"))
        noise = self.noise * torch.randn(x.shape[1:], generator=generator).to(x.device)

        def write_variants(image: int, start: int, stop: int, out: Tensor) -> None:
            removed = torch.cat([each[image] < removed_counts for each in ranks])[start:stop]
            out.copy_(torch.where(removed[:, None], impute(x[image], removed) + noise, x[image]))

        n = len(self.percentages)
        scores = score_variants(inputs, READOUTS[self.read_out](model_inputs), 2 * n, write_variants, self.batch_size)
        morf, lerf = scores.split(n, 1)
        parts = {"morf": morf.mean(1), "lerf": lerf.mean(1)}
        curves = {"": (lerf - morf) / 2, "morf": morf, "lerf": lerf}
        return Measurement((parts["lerf"] - parts["morf"]) / 2, parts, curves)
