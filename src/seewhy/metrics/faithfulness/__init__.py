"""Does the model use what the map points at?"""

from seewhy.metrics.faithfulness.option_search import Choice, choose_option

__all__ = ["Choice", "choose_option"]
