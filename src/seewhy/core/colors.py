"""Colors that people with color-blindness can tell apart.

Unsigned maps: matplotlib's "inferno", lightness rising with the value. Signed maps: blue (against) over a neutral gray
at exactly 0 to orange (for); blue and orange stay apart in all common kinds of color-blindness.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

SEQUENTIAL = "inferno"
BLUES = ("#08519c", "#2b83d6", "#92c5ec")  # -1 to nearly 0
NEUTRAL = "#f2f2f2"
ORANGES = ("#fdb863", "#f57c00", "#b84300")  # nearly 0 to +1
STEPS = 256
SIGNED_LEGEND = "orange: for, blue: against"
UNSIGNED_LEGEND = "bright: more, dark: less"


@cache
def color_table(signed: bool) -> UInt8[ndarray, "steps 3"]:
    """Return the look-up table; that of signed maps has an odd number of steps, so that 0 has a step of its own."""
    from matplotlib import colormaps
    from matplotlib.colors import Colormap, LinearSegmentedColormap

    colors: Colormap
    if signed:
        colors, steps = LinearSegmentedColormap.from_list("seewhy", [*BLUES, NEUTRAL, *ORANGES]), 2 * STEPS + 1
    else:
        colors, steps = colormaps[SEQUENTIAL], STEPS
    # one sample per step of a map with as many steps: index by integer, so that no rounding moves the midpoint
    table = np.array(colors.resampled(steps)(np.arange(steps), bytes=True), dtype=np.uint8)[:, :3].copy()
    table.flags.writeable = False  # it is shared by all callers
    return table


def colorize(
    values: Float[Tensor, "rows cols"] | Float[ndarray, "rows cols"], signed: bool
) -> UInt8[ndarray, "rows cols 3"]:
    """Return the colors of values in [0, 1], or in [-1, 1] if signed; what lies outside is clipped."""
    table = color_table(signed)
    unit = np.asarray(values, dtype=np.float64)
    if signed:
        unit = (unit + 1) / 2
    return table[np.rint(np.clip(unit, 0, 1) * (len(table) - 1)).astype(np.intp)]
