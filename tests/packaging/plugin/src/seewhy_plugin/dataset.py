"""A dataset: gray squares, made when they are read."""

from __future__ import annotations

import numpy as np
from PIL import Image

from seewhy.core.cards import Requirement
from seewhy.data.base import Dataset, Sample, dataset


@dataset(
    name="plugin_squares",
    title="Plugin squares",
    summary="Gray squares of two shades.",
    splits=("all",),
    layout=(),
    has={Requirement.LABEL},
    source="made by seewhy-plugin",
    citation="",
)
class PluginSquares(Dataset):
    """Four squares."""

    class_names = ("dark", "light")
    split = "all"
    ids = tuple(f"square-{i}" for i in range(4))

    def read(self, index: int) -> Sample:
        shade = np.full((32, 32, 3), 60 + 40 * index, dtype=np.uint8)
        return Sample(self.ids[index], Image.fromarray(shade), (index // 2,))
