"""Parts that the networks of trained explainers share."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each cell."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the normalized map."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class PooledClassifier(nn.Sequential):
    """Convolutions, pooling, global average pooling and a fully connected layer: from a map to logits.

    Args:
        channels: Of the map.
        hidden: Channels of the convolutions.
        classes: Number of logits.
        kernel: Side of the convolutions, odd.
        pool: Side of the max pooling after each convolution; 1: none.
        depth: Number of convolutions.
    """

    def __init__(
        self, channels: int, hidden: int, classes: int, kernel: int = 3, pool: int = 2, depth: int = 1
    ) -> None:
        convolutions: list[nn.Module] = []
        for i in range(depth):
            convolution = nn.Conv2d(hidden if i else channels, hidden, kernel, padding=kernel // 2)
            convolutions += [convolution, nn.GELU(), nn.MaxPool2d(pool, ceil_mode=True)]
        super().__init__(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(hidden, classes))
