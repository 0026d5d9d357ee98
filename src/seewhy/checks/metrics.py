"""All checks of metrics, and one call that runs them."""

from __future__ import annotations

from seewhy.checks import metric_cards, metric_invariance, metric_safety, metric_values  # noqa: F401 (METRIC_CHECKS)
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
        metric: A class (its defaults are checked), or configured; numbers of repetitions are set to a few.
        model: For a metric that needs one: small is enough. It is only copied and run.
        method: For a metric that asks the method for more than maps; None: saliency.

    Returns:
        The checks that did not apply, with the reason.

    Raises:
        ContractError: A check fails; the first, with the others as its notes.
        SkipTest: The metric needs a model, and there is none.
    """
    return run_all(METRIC_CHECKS, metric.card.name, make_metric_case(metric, model, method=method))
