"""Contract checks for authors of methods, metrics, models and data, in the manner of scikit-learn's `check_estimator`.

    from seewhy.checks import check_method, METHOD_CHECKS
    check_method(MyMethod, model)                        # all of them; the first that fails is raised

    @pytest.mark.parametrize("name, check", METHOD_CHECKS)
    def test_my_method(name, check):
        check(MyMethod, model)

`check_metric` with `METRIC_CHECKS` (metrics), `check_model` (adapters) and `check_dataset` (datasets) are used alike.
Nothing here needs pytest. A check that does not apply raises `unittest.SkipTest`, which pytest shows as skipped.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
