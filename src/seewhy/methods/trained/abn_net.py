"""Networks of the Attention Branch Network (Fukui et al., CVPR 2019, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from seewhy.core.options import Configurable, check_options, option
from seewhy.errors import OptionError
from seewhy.methods.trained.branches import ChannelNorm, PooledClassifier


@dataclass(kw_only=True, frozen=True)
class ABNSettings(Configurable):
    """Sizes of the two branches.

    Raises:
        OptionError: A value cannot be used.
    """

    layer: Any = option(default=None, help="whose output is explained, by name or stage number; default: the deepest")
    width: int = option(default=64, help="channels of the attention branch's convolutions", at_least=1)
    depth: int = option(default=2, help="their number", at_least=1)
    hidden: int = option(default=64, help="channels of the perception branch's convolutions", at_least=1)
    kernel: int = option(default=3, help="side of all convolutions but the 1 × 1 ones", at_least=1)
    pool: int = option(default=2, help="side of the perception branch's max pooling; 1: none", at_least=1)
    attention_weight: float = option(default=1.0, help="weight of the attention branch's cross-entropy", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.kernel % 2 == 0:
            raise OptionError(f"kernel={self.kernel} is even; use an odd one")
        if self.layer is not None and not isinstance(self.layer, (str, int)):
            raise OptionError(f"layer={self.layer!r} must be a dotted name or the number of a stage")


class ABNOutput(NamedTuple):
    """What a training step needs.

    Attributes:
        logits: Of the perception branch.
        attention_logits: Of the attention branch.
        attention: The map, on the layer's grid.
    """

    logits: Float[Tensor, "batch classes"]
    attention_logits: Float[Tensor, "batch classes"]
    attention: Float[Tensor, "batch rows cols"]


class ABNNet(nn.Module):
    """Attention branch and perception branch on a feature map.

    Args:
        settings: Sizes.
        channels: Of the feature map.
        classes: Number of classes, K.
    """

    def __init__(self, settings: ABNSettings, channels: int, classes: int) -> None:
        super().__init__()
        s = settings
        self.norm = ChannelNorm(channels)
        convolutions: list[nn.Module] = []
        for i in range(s.depth):
            inputs = s.width if i else channels
            convolution = nn.Conv2d(inputs, s.width, s.kernel, padding=s.kernel // 2, bias=False)
            convolutions += [convolution, nn.BatchNorm2d(s.width), nn.ReLU()]
        self.branch = nn.Sequential(
            *convolutions, nn.Conv2d(s.width, classes, 1, bias=False), nn.BatchNorm2d(classes), nn.ReLU()
        )
        self.to_map = nn.Sequential(
            nn.Conv2d(classes, 1, s.kernel, padding=s.kernel // 2, bias=False), nn.BatchNorm2d(1), nn.Sigmoid()
        )
        self.attention_classifier = nn.Sequential(nn.Conv2d(classes, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.perception = PooledClassifier(channels, s.hidden, classes, s.kernel, s.pool)

    def attend(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        """Return a = σ(BN(conv(K → 1))), in (0, 1)."""
        return self.to_map(self.branch(self.norm(features))).squeeze(1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> ABNOutput:
        """Return both branches' logits and the map; the perception branch sees x · a + x."""
        x = self.norm(features)
        scores = self.branch(x)
        attention = self.to_map(scores)
        return ABNOutput(self.perception(x * attention + x), self.attention_classifier(scores), attention.squeeze(1))
