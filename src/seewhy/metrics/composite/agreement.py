"""Do two metrics rank methods alike?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations

from seewhy.errors import OptionError


def kendall(rank_a: Iterable[float], rank_b: Iterable[float]) -> float:
    """Kendall's τ-b: (concordant − discordant) / √((n₀ − ties in a)(n₀ − ties in b)) over the n₀ pairs of methods.

    Args:
        rank_a, rank_b: a rank or a score for each method, in the same order; NaN: this metric has none, and the method
            is left out. Scores of metrics of different directions: negate one.

    Returns:
        From −1 (reversed) to 1 (alike); NaN where a metric ties all methods, or fewer than two have both.

    Raises:
        OptionError: the two are not for the same methods.
    """
    rank_a, rank_b = list(rank_a), list(rank_b)
    if len(rank_a) != len(rank_b):
        raise OptionError(
            f"{len(rank_a)} methods are ranked by one metric and {len(rank_b)} by the other; "
            "give both for the same methods"
        )
    both = [(float(a), float(b)) for a, b in zip(rank_a, rank_b, strict=True) if not (math.isnan(a) or math.isnan(b))]
    pairs = [(_sign(a1, a2), _sign(b1, b2)) for (a1, b1), (a2, b2) in combinations(both, 2)]
    decided = sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs)
    return sum(a * b for a, b in pairs) / math.sqrt(decided) if decided else math.nan


def _sign(one: float, two: float) -> int:
    return (one > two) - (one < two)
