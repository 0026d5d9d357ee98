"""Faithfulness: does the model use what the map points at?"""

from seewhy.metrics.faithfulness.option_search import OptionSearch, choose_option

__all__ = ["OptionSearch", "choose_option"]
