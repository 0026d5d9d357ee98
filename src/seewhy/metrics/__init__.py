"""Every metric, found by walking the folders: one file is one metric.

`seewhy.metrics.PointingGame()(maps, masks=masks)`; `METRICS` has the cards.
"""

from __future__ import annotations

import importlib
import pkgutil

from seewhy.metrics.base import Given, Measurement, Metric, fit
from seewhy.registry import METRICS

for _module in pkgutil.walk_packages(__path__, prefix=f"{__name__}."):
    importlib.import_module(_module.name)

globals().update({cls.__name__: cls for cls in METRICS})

__all__ = ["METRICS", "Given", "Measurement", "Metric", "fit", *(cls.__name__ for cls in METRICS)]
