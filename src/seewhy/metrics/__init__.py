"""Metrics: one file is one metric.

`seewhy.metrics.PointingGame()(maps, masks=masks)`; `METRICS` maps names to classes, each with its card.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
