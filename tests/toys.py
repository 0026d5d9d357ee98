"""Small models whose inside is known: plain code, no library, so that a test can redo every step by hand."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seewhy.core.cards import Capability, Cost
from seewhy.core.preprocess import Preprocess
from seewhy.methods.base import Method, method
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Block, Layer, Structure


class ToyCNN(nn.Module):
    """Two stages of conv, batch norm and in-place ReLU; global average pooling; a linear head."""

    def __init__(self, classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(x)).mean((2, 3)))


class ToyAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.scaled_dot_product_attention(*self.split(x)).transpose(1, 2).flatten(2))


class ToyBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), ToyAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ToyViT(nn.Module):
    """A ViT with `prefix` extra tokens (0: none), pooled by the first token or by the mean of the patch tokens."""

    def __init__(
        self,
        size: tuple[int, int] = (32, 48),
        patch: int = 8,
        dim: int = 16,
        heads: int = 2,
        depth: int = 3,
        prefix: int = 1,
        pool: str = "cls",
        classes: int = 5,
    ) -> None:
        super().__init__()
        self.prefix, self.pool = prefix, pool
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.tokens = nn.Parameter(torch.randn(1, prefix, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, (size[0] // patch) * (size[1] // patch) + prefix, dim) * 0.2)
        self.blocks = nn.Sequential(*[ToyBlock(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def embed(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.tokens.expand(len(x), -1, -1), patches], 1) + self.pos_embed

    def pooled(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        return tokens[:, 0] if self.pool == "cls" else tokens[:, self.prefix :].mean(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooled(self.blocks(self.embed(x))))


def toy_cnn(seed: int = 0) -> VisionModel:
    """A CNN for 32 × 48 images."""
    torch.manual_seed(seed)
    module = ToyCNN()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    stages = (Layer("stage1", "nchw"), Layer("stage2", "nchw"))
    structure = Structure("toy", stages=stages, cam_layer=stages[-1], head="head")
    return VisionModel(
        module,
        structure,
        name="toy_cnn",
        preprocess=Preprocess(size=(32, 48), resize=None),
        class_names=["ant", "bee", "cat", "dog", "elk"],
    )


def toy_vit(seed: int = 0, **kwargs) -> VisionModel:
    """A ViT for 32 × 48 images: a 4 × 6 grid."""
    torch.manual_seed(seed)
    module = ToyViT(**kwargs)
    blocks = tuple(Block(f"blocks.{i}", f"blocks.{i}.norm1", f"blocks.{i}.attn") for i in range(len(module.blocks)))
    structure = Structure(
        "toy",
        stages=tuple(Layer(b.name, "tokens") for b in blocks),
        cam_layer=Layer(blocks[-1].norm1, "tokens"),
        blocks=blocks,
        prefix_tokens=module.prefix,
        class_token=module.pool == "cls",
        patch_size=(8, 8),
        head="head",
    )
    return VisionModel(
        module,
        structure,
        name="toy_vit",
        preprocess=Preprocess(size=(32, 48), resize=None),
        class_names=["ant", "bee", "cat", "dog", "elk"],
    )


def batch(n: int = 2, seed: int = 1) -> Tensor:
    """A batch of n images of 32 × 48."""
    return torch.randn(n, 3, 32, 48, generator=torch.Generator().manual_seed(seed))


def without_inplace(module):
    """An equal module whose ReLUs do not write into what they read."""
    module = copy.deepcopy(module).eval()
    for m in module.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = False
    return module


NO_PASSES = {
    "summary": "Nothing.",
    "needs": {Capability.EMBEDDING},
    "signed": False,
    "class_specific": False,
    "citation": "none",
    "cost": lambda self: Cost.whole(0),
}


@method(register=False, name="edges", title="Edges", **NO_PASSES)
class Edges(Method):
    """Where the image itself changes; the model is not asked."""

    def compute(self, x, target):
        return (x[:, :, 1:, 1:] - x[:, :, :-1, :-1]).abs().sum(1)
