"""Contract checks for authors of methods, metrics, models and data, in the manner of scikit-learn's `check_estimator`.

    from seewhy.checks import check_method, METHOD_CHECKS
    check_method(MyMethod, model)                        # all of them; the first that fails is raised

    @pytest.mark.parametrize("name, check", METHOD_CHECKS)
    def test_my_method(name, check):
        check(MyMethod, model)

`check_metric` with `METRIC_CHECKS` (metrics), `check_model` (adapters) and `check_dataset` (data sets) are used alike.
Nothing here needs pytest. A check that does not apply raises `unittest.SkipTest`, which pytest shows as skipped.
"""

from seewhy.checks.contract import ContractError
from seewhy.checks.datasets import DATASET_CHECKS, check_dataset
from seewhy.checks.methods import METHOD_CHECKS, check_method
from seewhy.checks.metrics import METRIC_CHECKS, check_metric
from seewhy.checks.models import MODEL_CHECKS, check_model

globals().update({name: check for name, check in (*METHOD_CHECKS, *MODEL_CHECKS, *DATASET_CHECKS)})

__all__ = [
    "DATASET_CHECKS",
    "METHOD_CHECKS",
    "METRIC_CHECKS",
    "MODEL_CHECKS",
    "ContractError",
    "check_dataset",
    "check_method",
    "check_metric",
    "check_model",
    *(name for name, _ in (*METHOD_CHECKS, *MODEL_CHECKS, *DATASET_CHECKS)),
]
