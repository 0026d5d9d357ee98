"""Networks of the Attention Lattice Adapter (Hirano et al., ACCV 2024, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from seewhy.core.options import Configurable, check_options, option
from seewhy.errors import OptionError
from seewhy.methods.trained.branches import ChannelNorm, PooledClassifier
from seewhy.methods.trained.levels import Levels


@dataclass(kw_only=True, frozen=True)
class ALASettings(Configurable):
    """What the paper's table 1 names (heads #A, layers #L, patch #P, width #d), and what it leaves open.

    Raises:
        OptionError: A value cannot be used.
    """

    heads: int = option(default=4, help="attention heads of the side transformer (#A)", at_least=1)
    layers: int = option(default=8, help="its layers (#L)", at_least=1)
    patch: int = option(default=16, help="side of its patches in pixels (#P)", at_least=1)
    width: int = option(default=64, help="its width (#d)", at_least=1)
    mlp_ratio: float = option(default=4.0, help="hidden width of its MLPs, as a multiple of the width", at_least=0)
    taps: list[int] | None = option(
        default=None,
        help="levels of the encoder that are added before side layers 1, 2, …: 0 is what enters the first block, i "
        "what block i gives; default: the stem and every quarter of the depth; []: none (the ablation 'without ALA')",
    )
    kernel: int = option(default=3, help="side of the convolutions of f¹, f² and the perception branch", at_least=1)
    hidden: int = option(default=64, help="channels of the convolutions of f² and the perception branch", at_least=1)
    pool: int = option(default=2, help="side of their max pooling; 1: none", at_least=1)
    depth: int = option(default=2, help="number of their convolutions, each with a pooling", at_least=1)
    attention_input: str = option(
        default="map",
        help="what f² classifies: the attention map (the paper's text), or the side features weighted by it",
        choices=("map", "features"),
    )
    attention_weight: float = option(default=1.0, help="λ: the weight of f²'s cross-entropy in the loss", at_least=0)
    alternate: bool = option(default=True, help="AEA: every second epoch ones in place of α, and the adapter frozen")
    lora_rank: int = option(default=8, help="rank of LoRA's matrices; 0: no LoRA", at_least=0)
    lora_alpha: float = option(default=16.0, help="LoRA's α: its deltas are scaled by α / rank", at_least=0)
    lora_dropout: float = option(default=0.0, help="dropout before LoRA's matrices", at_least=0)
    lora_blocks: list[int] | None = option(
        default=None, help="numbers of the blocks with LoRA, negative from the end; default: the last"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.width % self.heads:
            raise OptionError(f"width={self.width} is no multiple of heads={self.heads}; choose another width")
        if self.kernel % 2 == 0:
            raise OptionError(f"kernel={self.kernel} is even; use an odd one")
        if self.taps is not None and len(self.taps) > self.layers:
            raise OptionError(f"{len(self.taps)} taps for {self.layers} side layers; use fewer taps or more layers")

    def levels(self, depth: int) -> tuple[int, ...]:
        """Return the levels that are added, for an encoder of so many blocks.

        Raises:
            OptionError: There is no such level.
        """
        if self.taps is None:
            return tuple(i * depth // 4 for i in range(min(4, self.layers)))
        if any(not 0 <= tap <= depth for tap in self.taps):
            raise OptionError(f"taps={self.taps} are not levels of an encoder of {depth} blocks; use 0 to {depth}")
        return tuple(self.taps)

    def adapted_blocks(self, depth: int) -> tuple[int, ...]:
        """Return the numbers of the blocks with LoRA, from 0.

        Raises:
            OptionError: There is no such block.
        """
        if not self.lora_rank:
            return ()
        wanted = [-1] if self.lora_blocks is None else self.lora_blocks
        if any(not -depth <= block < depth for block in wanted):
            raise OptionError(f"lora_blocks={self.lora_blocks}: there are {depth} blocks; use 0 to {depth - 1}")
        return tuple(sorted({block % depth for block in wanted}))


class ALAOutput(NamedTuple):
    """What a training step needs.

    Attributes:
        logits: Of the perception branch.
        attention_logits: Of f².
        attention: h_ALA on the side grid: α, or ones.
    """

    logits: Float[Tensor, "batch classes"]
    attention_logits: Float[Tensor, "batch classes"]
    attention: Float[Tensor, "batch rows cols"]


class SideTransformer(nn.Module):
    """The former part of ALA: patches of the image, and the encoder's features added before its first layers.

    Args:
        settings: Sizes and levels.
        image: Channels, rows and columns of the images.
        channels: Of the encoder's features.
        depth: Blocks of the encoder.
    """

    def __init__(self, settings: ALASettings, image: tuple[int, int, int], channels: int, depth: int) -> None:
        super().__init__()
        width, patch = settings.width, settings.patch
        rows, cols = -(-image[1] // patch), -(-image[2] // patch)
        self.patch = patch
        self.levels = settings.levels(depth)
        self.embed = nn.Conv2d(image[0], width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, width, rows, cols) * 0.02)
        self.fuse = nn.ModuleList(
            nn.Sequential(ChannelNorm(channels), nn.Conv2d(channels, width, 1)) for _ in self.levels
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                settings.heads,
                int(width * settings.mlp_ratio) or 1,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.layers)
        )
        self.norm = ChannelNorm(width)

    def forward(self, x: Float[Tensor, "b c h w"], features: Levels) -> Float[Tensor, "b d rows cols"]:
        """Return h_l on the side grid."""
        spare = [-x.shape[-1] % self.patch, -x.shape[-2] % self.patch]
        side = self.embed(F.pad(x, (0, spare[0], 0, spare[1])))
        side = side + resized(self.positions, side.shape[-2:])
        for i, layer in enumerate(self.layers):
            if i < len(self.levels):
                side = side + resized(self.fuse[i](features[self.levels[i]]), side.shape[-2:])
            size = side.shape[-2:]
            side = layer(side.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, size)
        return self.norm(side)


class ALANet(nn.Module):
    """Side transformer, f¹, f² and perception branch; the encoder's features are arguments.

    Args:
        settings: Sizes and levels.
        image: Channels, rows and columns of the images.
        channels: Of the encoder's features.
        depth: Blocks of the encoder.
        classes: Number of classes.
    """

    def __init__(
        self, settings: ALASettings, image: tuple[int, int, int], channels: int, depth: int, classes: int
    ) -> None:
        super().__init__()
        s = settings
        self.depth = depth
        self.attention_input = s.attention_input
        self.side = SideTransformer(s, image, channels, depth)
        self.to_map = nn.Conv2d(s.width, 1, s.kernel, padding=s.kernel // 2)
        inputs = 1 if s.attention_input == "map" else s.width
        self.attention_classifier = PooledClassifier(inputs, s.hidden, classes, s.kernel, s.pool, s.depth)
        self.norm = ChannelNorm(channels)
        self.perception = PooledClassifier(channels, s.hidden, classes, s.kernel, s.pool, s.depth)

    @property
    def adapter(self) -> list[nn.Module]:
        """The parts that the Alternating Epoch Architect freezes: all but the perception branch."""
        return [self.side, self.to_map, self.attention_classifier]

    def attend(
        self, x: Float[Tensor, "b c h w"], features: Levels
    ) -> tuple[Float[Tensor, "b d rows cols"], Float[Tensor, "b 1 rows cols"]]:
        """Return h_l and α = σ(conv(h_l)), in (0, 1)."""
        side = self.side(x, features)
        return side, self.to_map(side).sigmoid()

    def forward(self, x: Float[Tensor, "b c h w"], features: Levels, ones: bool = False) -> ALAOutput:
        """Return both branches' logits and the map.

        Args:
            x: The images.
            features: The encoder's features at the levels and at its last block.
            ones: Whether h_ALA is one everywhere (an even epoch of AEA) in place of α.
        """
        deep = self.norm(features[self.depth])
        if ones and self.attention_input == "map":  # nothing of the side transformer is seen
            weights = seen = torch.ones_like(x[:, :1, :: self.side.patch, :: self.side.patch])
        else:
            side, weights = self.attend(x, features)
            weights = torch.ones_like(weights) if ones else weights
            seen = weights if self.attention_input == "map" else weights * side
        logits = self.perception(resized(weights, deep.shape[-2:]) * deep)
        return ALAOutput(logits, self.attention_classifier(seen), weights.squeeze(1))


def resized(value: Float[Tensor, "b c h w"], size: tuple[int, ...] | torch.Size) -> Float[Tensor, "b c rows cols"]:
    """Return a map on another grid, bilinear."""
    if tuple(value.shape[-2:]) == tuple(size):
        return value
    return F.interpolate(value, size=tuple(size), mode="bilinear", align_corners=False)
