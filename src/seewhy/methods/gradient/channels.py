"""One value for each pixel: what the gradient methods do with the channels, and whether they keep the sign.

The papers differ here without saying so, and it makes another map: Simonyan et al. take the largest magnitude of the
three, users of captum often the sum, the CDAM paper's runs the signed mean. So every method of the family has the two
options, with the default of its own paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from seewhy.core.maps import upcast
from seewhy.methods.base import Method, option

CHANNELS = ("max_abs", "mean", "sum")
_CHANNELS_HELP = "how the channels of a pixel become one value: the one of largest magnitude, their mean, or their sum"
_SIGNED_HELP = "whether values keep their sign; else magnitudes are taken first"


@dataclass(kw_only=True, eq=False)
class PixelMagnitudes(Method):
    """Base of methods that show how strongly the score reacts: the largest magnitude of the channels."""

    channels: str = option(default="max_abs", help=_CHANNELS_HELP, choices=CHANNELS)
    signed: bool = option(default=False, help=_SIGNED_HELP)

    def per_pixel(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return one value for each pixel (voxel) of (…, channels, height, width), as the options say."""
        return over_channels(values, self.channels, self.signed, dim=-1 - self.model.structure.axes)


@dataclass(kw_only=True, eq=False)
class PixelShares(PixelMagnitudes):
    """Base of methods that share out the score: the signed sum of the channels, so that the whole stays the whole."""

    channels: str = option(default="sum", help=_CHANNELS_HELP, choices=CHANNELS)
    signed: bool = option(default=True, help=_SIGNED_HELP)


def over_channels(values: Float[Tensor, "..."], channels: str, signed: bool, dim: int = -3) -> Float[Tensor, "..."]:
    """Return one value for each pixel from those of its channels.

    Args:
        values: A value for each pixel and channel.
        channels: `max_abs` (the value of largest magnitude), `mean` or `sum`.
        signed: Whether values keep their sign; else their magnitudes take their place.
        dim: Where the channels are.
    """
    values = upcast(values) if signed else upcast(values).abs()
    if channels == "sum":
        return values.sum(dim)
    if channels == "mean":
        return values.mean(dim)
    if not signed:
        return values.amax(dim)
    return values.gather(dim, values.abs().argmax(dim, keepdim=True)).squeeze(dim)
