"""AttnLRP's propositions on the toy ViT, relevance itself and every division written out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import literal
import torch
from torch import Tensor


def stab(z: Tensor, eps: float) -> Tensor:
    return torch.where(z < 0, z - eps, z + eps)


def linear(layer, x: Tensor, R: Tensor, rule: str | tuple[str, float], eps: float) -> Tensor:
    share = x[..., None, :] * layer.weight  # (…, out, in)
    bias = layer.bias
    if rule[0] == "gamma":  # Andéol et al.: outputs favor the parts of their own sign
        above = ((share.sum(-1) + bias) > 0)[..., None]
        share = share + rule[1] * torch.where(above, share.clamp(min=0), share.clamp(max=0))
        bias = bias + rule[1] * torch.where(above[..., 0], bias.clamp(min=0), bias.clamp(max=0))
    if rule == "zplus":
        share, bias = share.clamp(min=0), bias.clamp(min=0)
    return (share * (R / stab(share.sum(-1) + bias, eps))[..., None]).sum(-2)


def layer_norm(layer, x: Tensor, R: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    normal = centered / (centered.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    scaled = normal * layer.weight
    R = scaled / (scaled + layer.bias) * R  # affine: ε rule; then the division by σ: identity
    share = x[..., None, :] * (torch.eye(x.shape[-1]).to(x) - 1 / x.shape[-1])  # centering: (…, out, in)
    return (share * (R / centered)[..., None]).sum(-2)


def total(a: Tensor, b: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    return a / (a + b) * R, b / (a + b) * R


@dataclass
class Found:
    """Relevance of the tokens before the first block, of each matrix, and what each softmax loses."""

    pixels: Tensor
    tokens: Tensor
    matrices: list[Tensor] = field(default_factory=list)
    lost: Tensor | float = 0.0


def attention(layer, x: Tensor, R: Tensor, rule: str, eps: float, found: Found, constant: bool) -> Tensor:
    dim, heads = x.shape[-1], layer.num_heads
    width = dim // heads
    qkv = literal.linear(layer.qkv, x)
    mixed, (_, matrices) = [], literal.attention(layer, x)
    parts = [[qkv[..., p * dim + h * width : p * dim + (h + 1) * width] for p in range(3)] for h in range(heads)]
    mixed = torch.cat([torch.einsum("bij,bjk->bik", matrices[:, h], parts[h][2]) for h in range(heads)], -1)
    R = linear(layer.proj, mixed, R, rule, eps)
    down, of_matrix = torch.zeros_like(qkv), []
    for h, (q, k, v) in enumerate(parts):
        A, here = matrices[:, h], slice(h * width, (h + 1) * width)
        each = torch.einsum("bij,bjk->bijk", A, v) * (R[..., here] / mixed[..., here])[:, :, None]
        if constant:
            down[..., 2 * dim + here.start : 2 * dim + here.stop] = each.sum(1)
            continue
        each = each / 2
        of_matrix.append(each.sum(-1))
        scores = torch.einsum("bid,bjd->bij", q, k) / math.sqrt(width)
        R_scores = scores * (each.sum(-1) - A * each.sum((-1, -2))[..., None])
        found.lost = found.lost + (each.sum((1, 2, 3)) - R_scores.sum((1, 2)))
        product = torch.einsum("bid,bjd->bijd", q, k) / math.sqrt(width)
        pair = product * (R_scores / scores)[..., None] / 2
        for part, value in enumerate((pair.sum(2), pair.sum(1), each.sum(1))):
            down[..., part * dim + here.start : part * dim + here.stop] = value
    if not constant:
        found.matrices.insert(0, torch.stack(of_matrix, 1))
    return linear(layer.qkv, x, down, rule, eps)


def relevance(
    vit,
    x: Tensor,
    classes: list[int],
    start: str,
    rule: str | tuple[str, float, float] = "epsilon",
    eps: float = 1e-6,
    constant: bool = False,
) -> Found:
    """Relevance that starts with the logit (`start="logit"`) or with 1.

    `rule` may be ("gamma", γ of linear layers, γ of the patch embedding): attention then has the ε rule.
    """
    inside, conv = ("epsilon", (rule[0], rule[2])) if rule[0] == "gamma" else (rule, rule)
    found, states = Found(x, x), [literal.embed(vit, x)]
    for block in vit.blocks:
        T = literal.layer_norm(block.norm1, states[-1])
        states.append(literal.after_norm1(block, states[-1], T))
    normed = literal.layer_norm(vit.norm, states[-1])
    logits = literal.linear(vit.head, normed[:, 0])
    R = torch.zeros_like(logits)
    for image, c in enumerate(classes):
        R[image, c] = logits[image, c] if start == "logit" else 1
    at_norm = torch.zeros_like(normed)
    at_norm[:, 0] = linear(vit.head, normed[:, 0], R, rule, eps)
    R = layer_norm(vit.norm, states[-1], at_norm)
    for block, before in zip(reversed(vit.blocks), reversed(states[:-1]), strict=True):
        T = literal.layer_norm(block.norm1, before)
        middle = before + literal.attention(block.attn, T)[0]
        U = literal.layer_norm(block.norm2, middle)
        hidden = literal.linear(block.mlp[0], U)
        active = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        along, R = total(middle, literal.linear(block.mlp[2], active), R)
        R = linear(block.mlp[0], U, linear(block.mlp[2], active, R, rule, eps), rule, eps)  # GELU: identity
        along, R = total(before, middle - before, along + layer_norm(block.norm2, middle, R))
        R = along + layer_norm(block.norm1, before, attention(block.attn, T, R, inside, eps, found, constant))
    found.tokens = R
    found.pixels = to_pixels(vit, x, R, conv, eps)
    return found


def to_pixels(vit, x: Tensor, R: Tensor, rule: str, eps: float) -> Tensor:
    size = vit.patch_embed.kernel_size[0]
    plain = literal.embed(vit, x) - vit.pos_embed
    R = plain / (plain + vit.pos_embed) * R
    out, cols = torch.zeros_like(x), x.shape[3] // size
    flat = torch.nn.Linear(1, 1)
    flat.weight, flat.bias = torch.nn.Parameter(vit.patch_embed.weight.flatten(1)), vit.patch_embed.bias
    for i in range(R.shape[1] - vit.prefix):
        r, c = divmod(i, cols)
        here = (slice(None), slice(None), slice(r * size, (r + 1) * size), slice(c * size, (c + 1) * size))
        out[here] = linear(flat, x[here].flatten(1), R[:, vit.prefix + i], rule, eps).view(x[here].shape)
    return out.detach()


# ── Chefer's rules ────────────────────────────────────────────────────────────────────────────────────────────────────


def safe(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, 0, a / (b + torch.where(b < 0, -1e-9, 1e-9)))


def chefer_linear(layer, x: Tensor, R: Tensor, original: bool) -> Tensor:
    up = x.clamp(min=0)[..., None, :] * layer.weight.clamp(min=0)  # (…, out, in)
    down = x.clamp(max=0)[..., None, :] * layer.weight.clamp(max=0)
    if original:
        return (up * safe(R, up.sum(-1))[..., None]).sum(-2) + (down * safe(R, down.sum(-1))[..., None]).sum(-2)
    return ((up + down) * safe(R, (up + down).sum(-1))[..., None]).sum(-2)


def chefer_sum(a: Tensor, b: Tensor, R: Tensor, original: bool) -> tuple[Tensor, Tensor]:
    shares = a * safe(R, a + b), b * safe(R, a + b)
    if original:
        return shares
    first, second = (share.sum() for share in shares)
    scale = R.sum() / (first.abs() + second.abs())
    return shares[0] * first.abs() / first * scale, shares[1] * second.abs() / second * scale


def chefer_attention(layer, x: Tensor, R: Tensor, original: bool) -> tuple[Tensor, Tensor]:
    """Relevance of the input and of the matrix (1, heads, N, N)."""
    dim, heads = x.shape[-1], layer.num_heads
    width, qkv = dim // heads, literal.linear(layer.qkv, x)
    matrices = literal.attention(layer, x)[1]
    parts = [[qkv[..., p * dim + h * width : p * dim + (h + 1) * width] for p in range(3)] for h in range(heads)]
    mixed = torch.cat([torch.einsum("bij,bjk->bik", matrices[:, h], parts[h][2]) for h in range(heads)], -1)
    R = chefer_linear(layer.proj, mixed, R, original)
    down, of_matrix = torch.zeros_like(qkv), []
    for h, (q, k, v) in enumerate(parts):
        here = slice(h * width, (h + 1) * width)
        each = torch.einsum("bij,bjk->bijk", matrices[:, h], v) * safe(R[..., here], mixed[..., here])[:, :, None] / 2
        of_matrix.append(each.sum(-1))
        product = torch.einsum("bid,bjd->bijd", q, k)
        pair = product * safe(of_matrix[-1], product.sum(-1))[..., None] / 2  # the softmax hands on all
        for part, value in enumerate((pair.sum(2), pair.sum(1), each.sum(1))):
            down[..., part * dim + here.start : part * dim + here.stop] = value
    return chefer_linear(layer.qkv, x, down, original), torch.stack(of_matrix, 1)


def chefer(vit, x: Tensor, classes: list[int], original: bool) -> list[Tensor]:
    """Relevance of each block's matrix, image by image, from 1 at the class."""
    images = []
    for image, target in zip(x, classes, strict=True):
        states, matrices = [literal.embed(vit, image[None])], []
        for block in vit.blocks:
            states.append(literal.after_norm1(block, states[-1], literal.layer_norm(block.norm1, states[-1])))
        normed = literal.layer_norm(vit.norm, states[-1])
        R = torch.zeros_like(normed)
        R[:, 0] = chefer_linear(vit.head, normed[:, 0], torch.eye(len(vit.head.bias)).to(x)[target][None], original)
        for block, before in zip(reversed(vit.blocks), reversed(states[:-1]), strict=True):
            T = literal.layer_norm(block.norm1, before)
            branch = literal.attention(block.attn, T)[0]
            middle = before + branch
            U = literal.layer_norm(block.norm2, middle)
            hidden = literal.linear(block.mlp[0], U)
            active = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            along, R = chefer_sum(middle, literal.linear(block.mlp[2], active), R, original)
            R = chefer_linear(block.mlp[0], U, chefer_linear(block.mlp[2], active, R, original), original)
            along, R = chefer_sum(before, branch, along + R, original)
            R, matrix = chefer_attention(block.attn, T, R, original)
            matrices.insert(0, matrix)
            R = along + R
        images.append(matrices)
    return [torch.cat(each) for each in zip(*images, strict=True)]


def true_gradients(vit, x: Tensor, classes: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices, and ∂ logit / ∂ matrix: by nudges that are added to each matrix."""
    tokens, matrices, nudges = literal.embed(vit, x), [], []
    for block in vit.blocks:
        T = literal.layer_norm(block.norm1, tokens)
        A, layer = literal.attention(block.attn, T)[1].detach(), block.attn
        nudge = torch.zeros_like(A).requires_grad_()
        plain, width = literal.attention(layer, T), T.shape[-1] // layer.num_heads
        v = literal.linear(layer.qkv, T)[..., 2 * T.shape[-1] :]
        extra = torch.cat([nudge[:, h] @ v[..., h * width : (h + 1) * width] for h in range(layer.num_heads)], -1)
        middle = tokens + plain[0] + extra @ layer.proj.weight.T
        hidden = literal.linear(block.mlp[0], literal.layer_norm(block.norm2, middle))
        tokens = middle + literal.linear(block.mlp[2], hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
        matrices.append(A)
        nudges.append(nudge)
    logits = literal.logits(vit, tokens)
    score = sum(logits[i, c] for i, c in enumerate(classes))
    return matrices, list(torch.autograd.grad(score, nudges))
