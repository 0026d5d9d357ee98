"""Two small reference models of the synthetic scenes (`seewhy.data.Scenes`), and weights that ship with the package.

Both are plain modules that take (B, 3, H, W) images in [0, 1] after `(x - MEAN) / STD` and give one logit per
class; the classes are independent (sigmoid), because a scene may hold several objects or none. The transformer is
written in timm's names (`patch_embed`, `blocks[i].attn`, `norm`, `head`), the CNN in torchvision's (`layer1` …
`layer4`, `fc`), so whatever finds its way in those libraries' models finds its way here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from seewhy.errors import OptionError, UnknownNameError

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
_WEIGHTS = files("seewhy.models.reference") / "weights"


class PatchEmbed(nn.Module):
    """Cut the image into squares and project each to a token."""

    def __init__(self, img_size: int, patch_size: int, dim: int) -> None:
        super().__init__()
        self.img_size = (img_size, img_size)
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Return the tokens, row by row."""
        if tuple(x.shape[-2:]) != self.img_size:
            raise OptionError(f"the image has {tuple(x.shape[-2:])} pixels, the model takes {self.img_size}; resize it")
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention through torch's fused kernel."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Let the tokens attend to each other."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))

    def mimic(self) -> None:
        """Initialize queries like keys (near tokens attend to each other) and values that the projection undoes."""
        d, h = self.proj.in_features, self.head_dim
        q, k, v = self.qkv.weight.view(3, d, d)
        for head in range(self.num_heads):
            u, s, w = torch.linalg.svd(0.4 * torch.randn(d, d) / d**0.5 + 0.7 * torch.eye(d))
            rows = slice(head * h, head * h + h)
            q[rows], k[rows] = (u[:, :h] * s[:h].sqrt()).T, w[:h] * s[:h, None].sqrt()
        u, s, w = torch.linalg.svd(0.4 * torch.randn(d, d) / d**0.5 - 0.4 * torch.eye(d))
        v.copy_((u * s.sqrt()).T)
        self.proj.weight.copy_((s[:, None].sqrt() * w).T)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Transform each token by itself."""
        return self.fc2(self.act(self.fc1(x)))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Add attention, then the MLP, to the tokens."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SceneViT(nn.Module):
    """A small vision transformer.

    Args:
        num_classes: Number of logits.
        img_size: Side of the image, in pixels.
        patch_size: Side of a patch, in pixels.
        dim: Width of a token.
        depth: Number of blocks.
        num_heads: Attention heads per block.
        registers: Extra tokens without a place in the image (Darcet et al., 2024), after the CLS token.
        pool: "cls" reads the class from the CLS token; "mean" reads it from the mean of the patch tokens and has no
            CLS token at all.
    """

    def __init__(
        self,
        num_classes: int = 12,
        img_size: int = 96,
        patch_size: int = 8,
        dim: int = 160,
        depth: int = 5,
        num_heads: int = 5,
        registers: int = 0,
        pool: str = "cls",
    ) -> None:
        super().__init__()
        if pool not in ("cls", "mean"):
            raise OptionError(f"pool must be 'cls' or 'mean', got {pool!r}; choose one of them")
        self.num_classes, self.num_features, self.pool = num_classes, dim, pool
        self.num_reg_tokens = registers
        self.num_prefix_tokens = registers + (pool == "cls")
        self.patch_embed = PatchEmbed(img_size, patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if pool == "cls" else None
        self.reg_token = nn.Parameter(torch.zeros(1, registers, dim)) if registers else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches, dim))
        self.blocks = nn.Sequential(*(EncoderBlock(dim, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Mimetic initialization (Trockman and Kolter, 2023): attention begins local, which training finds slowly."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        self.pos_embed.copy_(_sines(self.patch_embed.grid_size[0], self.num_features))
        for module in self.modules():
            if isinstance(module, Attention):
                module.mimic()

    def forward_features(
        self, x: Float[Tensor, "b 3 h w"], places: Int[Tensor, " m"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return all tokens after the last norm: CLS (if any), registers (if any), patches row by row.

        Args:
            x: Images.
            places: The patches to look at (all by default); training on a window of them is several times faster.
        """
        return self.norm(self.blocks(self.embed(x, places)))

    def embed(self, x: Float[Tensor, "b 3 h w"], places: Int[Tensor, " m"] | None = None) -> Float[Tensor, "b n d"]:
        """Return the tokens that enter the first block."""
        x = self.patch_embed(x) + self.pos_embed
        x = x if places is None else x[:, places]
        prefix = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        return torch.cat([*prefix, x], dim=1)

    def forward_head(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b classes"]:
        """Compute the logits from all tokens after the last norm."""
        return self.head(x[:, 0] if self.pool == "cls" else x[:, self.num_prefix_tokens :].mean(1))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Compute the logits."""
        return self.forward_head(self.forward_features(x))


def _sines(side: int, dim: int) -> Float[Tensor, "1 n d"]:
    """Return sine and cosine of the row and of the column at dim / 4 frequencies each."""
    frequency = 0.7 * 20.0 ** -(torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(1, side * side, -1)


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut; the ReLU comes after the sum, so a block's output is not negative."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.relu2 = nn.ReLU()
        self.downsample = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Add the convolved map to its shortcut."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class SceneCNN(nn.Module):
    """A small residual network: a 12 × 12 last map for 96 px, global average pooling, one linear layer.

    Args:
        num_classes: Number of logits.
        widths: Channels of the four stages.
        depths: Residual blocks of the four stages.
    """

    def __init__(
        self, num_classes: int = 12, widths: Sequence[int] = (32, 48, 96, 128), depths: Sequence[int] = (1, 1, 2, 1)
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, widths[-1]
        stem = 24
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        inner = (stem, *widths)
        stages = [_stage(inner[i], widths[i], depths[i], stride) for i, stride in enumerate((2, 1, 2, 1))]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward_features(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d i j"]:
        """Return the last feature map, one eighth of the image's side."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Float[Tensor, "b d i j"]) -> Float[Tensor, "b classes"]:
        """Compute the logits from the last feature map."""
        return self.fc(self.avgpool(x).flatten(1))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Compute the logits."""
        return self.forward_head(self.forward_features(x))


def _stage(inner: int, outer: int, depth: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inner, outer, stride), *(BasicBlock(outer, outer) for _ in range(depth - 1)))


ARCHITECTURES: dict[str, type[nn.Module]] = {"SceneCNN": SceneCNN, "SceneViT": SceneViT}


def build(architecture: str, **options: Any) -> nn.Module:
    """Make a fresh model of `ARCHITECTURES`.

    Args:
        architecture: A key of `ARCHITECTURES`.
        **options: For its class.

    Raises:
        UnknownNameError: There is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, ARCHITECTURES)
    return ARCHITECTURES[architecture](**options)


def shipped() -> tuple[str, ...]:
    """Return the names of the models whose weights are in the package."""
    return tuple(sorted(f.name.removesuffix(".json") for f in _WEIGHTS.iterdir() if f.name.endswith(".json")))


def load(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Load a trained model in float32 and eval mode, on the CPU, with its record; needs no network.

    Args:
        name: Of `shipped()`.

    Returns:
        The module, and what its JSON file says of it: architecture, options, classes, accuracy.

    Raises:
        UnknownNameError: No such model ships with the package.
    """
    from safetensors.torch import load as read

    if name not in shipped():
        raise UnknownNameError("scenes model", name, shipped())
    info = json.loads((_WEIGHTS / f"{name}.json").read_text())
    model = build(info["architecture"], **info["options"])
    state = read((_WEIGHTS / f"{name}.safetensors").read_bytes())
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval(), info
