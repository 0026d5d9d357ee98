"""Do two metrics rank methods alike?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from seewhy.errors import OptionError, require


def kendall(rank_a: Iterable[float], rank_b: Iterable[float]) -> float:
    """Compute Kendall's τ-b: (concordant − discordant) / √((n₀ − ties in a)(n₀ − ties in b)) over n₀ pairs of methods.

    `scipy.stats.kendalltau` over the methods that both metrics have a value for.

    Args:
        rank_a: A rank or a score for each method; NaN where the metric has none. Of scores of metrics of different
            directions, negate one.
        rank_b: The other metric's, for the same methods in the same order.

    Returns:
        From −1 (reversed) to 1 (alike); NaN where a metric ties all methods, or fewer than two have both values.

    Raises:
        OptionError: When the two are not for the same methods.
        MissingExtraError: When `pip install 'seewhy[bench]'` has not been done.
    """
    rank_a, rank_b = list(rank_a), list(rank_b)
    if len(rank_a) != len(rank_b):
        raise OptionError(
            f"{len(rank_a)} methods are ranked by one metric and {len(rank_b)} by the other; "
            "give both for the same methods"
        )
    both = [(float(a), float(b)) for a, b in zip(rank_a, rank_b, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if len(both) < 2:
        return math.nan
    return float(require("scipy.stats", "bench").kendalltau(*zip(*both, strict=True)).statistic)
