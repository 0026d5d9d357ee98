"""All checks of metrics, and one call that runs them."""

from __future__ import annotations

from seewhy.checks import metric_cards, metric_safety, metric_values  # noqa: F401 (they fill METRIC_CHECKS)
from seewhy.checks.core import run_all
from seewhy.checks.metric_case import METRIC_CHECKS, make_metric_case
from seewhy.methods.base import Method
from seewhy.metrics.base import Metric
from seewhy.models.adapter import VisionModel


def check_metric(
    metric: Metric | type[Metric], model: VisionModel | None = None, method: type[Method] | None = None
) -> dict[str, str]:
    """Run every check of a metric; faster than one by one, because they share the plain measurement.

    Args:
        metric: a class (its defaults are checked) or configured; counts that multiply the passes are set to a few.
        model: for a metric that asks one: small is enough. It is only copied and run.
        method: for a metric that asks the method for more than maps; default: saliency.

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: the first check that fails, with the others as its notes.
        SkipTest: the metric asks a model, and there is none.
    """
    return run_all(METRIC_CHECKS, metric.card.name, make_metric_case(metric, model, method=method))
