"""The toy models once more, slowly and from their weights alone: what the methods are compared with.

Nothing here calls seewhy, a fused kernel or `forward` of a toy; each sum is written out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def linear(layer, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def layer_norm(layer, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attention(layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the softmaxed matrix (B, heads, N, N), head by head."""
    dim = x.shape[-1]
    width = dim // layer.num_heads
    qkv = linear(layer.qkv, x)
    outputs, matrices = [], []
    for head in range(layer.num_heads):
        q, k, v = (qkv[..., part * dim + head * width : part * dim + (head + 1) * width] for part in range(3))
        weights = torch.exp(torch.einsum("bik,bjk->bij", q, k) / math.sqrt(width))
        matrices.append(weights / weights.sum(-1, keepdim=True))
        outputs.append(torch.einsum("bij,bjk->bik", matrices[-1], v))
    return linear(layer.proj, torch.cat(outputs, -1)), torch.stack(matrices, 1)


def after_norm1(block, residual: Tensor, T: Tensor) -> Tensor:
    """A block's output from its norm1's output T, the residual stream given."""
    x = residual + attention(block.attn, T)[0]
    hidden = linear(block.mlp[0], layer_norm(block.norm2, x))
    return x + linear(block.mlp[2], hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def embed(vit, x: Tensor) -> Tensor:
    """Prefix tokens and patch tokens, patch after patch, row after row."""
    size = vit.patch_embed.kernel_size[0]
    rows, cols = x.shape[2] // size, x.shape[3] // size
    tokens = [vit.tokens[0, i].expand(len(x), -1) for i in range(vit.prefix)]
    for r in range(rows):
        for c in range(cols):
            pixels = x[:, :, r * size : (r + 1) * size, c * size : (c + 1) * size]
            tokens.append(torch.einsum("bchw,dchw->bd", pixels, vit.patch_embed.weight) + vit.patch_embed.bias)
    return torch.stack(tokens, 1) + vit.pos_embed


def through(vit, tokens: Tensor, until: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """Tokens after the blocks before `until`, and the attention matrices on the way."""
    matrices = []
    for block in list(vit.blocks)[:until]:
        T = layer_norm(block.norm1, tokens)
        matrices.append(attention(block.attn, T)[1])
        tokens = after_norm1(block, tokens, T)
    return tokens, matrices


def embedding(vit, tokens: Tensor) -> Tensor:
    tokens = layer_norm(vit.norm, tokens)
    return tokens[:, 0] if vit.pool == "cls" else tokens[:, vit.prefix :].mean(1)


def logits(vit, tokens: Tensor) -> Tensor:
    return linear(vit.head, embedding(vit, tokens))


def last_block(vit, x: Tensor) -> tuple[Tensor, Tensor]:
    """The residual stream before the last block, and T, its norm1's output."""
    residual = through(vit, embed(vit, x), until=-1)[0].detach()
    return residual, layer_norm(vit.blocks[-1].norm1, residual).detach()


def on_grid(values: Tensor, prefix: int, rows: int, cols: int) -> Tensor:
    """(B, N) per-token numbers on the grid, cell by cell."""
    grid = torch.zeros(len(values), rows, cols, dtype=values.dtype)
    for r in range(rows):
        for c in range(cols):
            grid[:, r, c] = values[:, prefix + r * cols + c]
    return grid
