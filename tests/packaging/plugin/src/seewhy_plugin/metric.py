"""A metric: the share of positive values."""

from __future__ import annotations

from torch import Tensor

from seewhy.metrics import Metric, metric
from seewhy.metrics.base import Measurement, MetricInputs


@metric(
    name="plugin_positive_share",
    title="Plugin positive share",
    summary="How much of the map is above zero.",
    needs=set(),
    bounds=(0.0, 1.0),
    higher_is_better=None,
    citation="seewhy-plugin",
)
class PluginPositiveShare(Metric):
    """The share of values above zero."""

    def score(self, maps: Tensor, inputs: MetricInputs) -> Measurement:
        return Measurement((maps > 0).double().mean((1, 2)))
