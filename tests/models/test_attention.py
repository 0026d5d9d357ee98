"""Attention matrices read out of fused kernels, out of softmax, and out of nn.MultiheadAttention."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import batch, toy_vit

from seewhy.errors import LayoutError
from seewhy.models.instrument.attention import attention_matrix, reading_attention
from seewhy.models.instrument.hooks import Stop

B, N, D, H = 2, 7, 8, 2
NONE, BOOL, FLOAT = "no mask", "boolean mask", "additive mask"


def mask_of(kind):
    """True lets attend, as in the fused kernel; the diagonal is always allowed."""
    allowed = torch.rand(N, N, generator=torch.Generator().manual_seed(5)) > 0.4
    allowed |= torch.eye(N, dtype=torch.bool)
    if kind == BOOL:
        return allowed
    return torch.randn(N, N, generator=torch.Generator().manual_seed(6)) if kind == FLOAT else None


def literal(q, k, mask=None, scale=None):
    """softmax(q kᵀ · scale + mask), entry by entry."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    if mask is not None:
        scores = torch.where(mask, scores, -math.inf) if mask.dtype == torch.bool else scores + mask
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


class Base(nn.Module):
    """q, k, v (B, H, N, D/H) from one projection; subclasses mix them in their own way."""

    def __init__(self, mask=None, scale=None, key_heads=H):
        super().__init__()
        self.mask, self.scale, self.key_heads = mask, scale, key_heads
        width = D // H
        self.q = nn.Linear(D, D)
        self.kv = nn.Linear(D, 2 * key_heads * width)

    def project(self, x):
        k, v = self.kv(x).chunk(2, -1)
        return tuple(t.unflatten(-1, (-1, D // H)).transpose(1, 2) for t in (self.q(x), k, v))

    def forward(self, x):
        return self.mix(*self.project(x)).transpose(1, 2).flatten(2)


class Fused(Base):
    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, self.mask, scale=self.scale, enable_gqa=self.key_heads != H)


class FusedByKeyword(Base):
    def mix(self, q, k, v):
        return nn.functional.scaled_dot_product_attention(
            query=q, key=k, value=v, attn_mask=self.mask, dropout_p=0.0, is_causal=False, scale=self.scale
        )


class Eager(Base):
    """The softmax of the model itself, written in one of several ways."""

    how = "method"

    def mix(self, q, k, v):
        scores = q @ k.mT * (self.scale or 1 / math.sqrt(D // H))
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, -math.inf) if self.mask.dtype == torch.bool else scores + self.mask
        soft = {
            "method": lambda s: s.softmax(-1),
            "torch": lambda s: torch.softmax(s, -1),
            "functional": lambda s: F.softmax(s, dim=-1, dtype=torch.float32),
            "module": nn.Softmax(-1),
        }
        return soft[self.how](scores) @ v


class Eager3d(Base):
    """Heads folded into the batch, as in older models."""

    def mix(self, q, k, v):
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
        return (torch.bmm(q, k.mT) / math.sqrt(D // H)).softmax(-1).bmm(v).unflatten(0, (-1, H))


def eager(how):
    return type(f"Eager_{how}", (Eager,), {"how": how})


READABLE = {
    "fused": Fused,
    "fused, by keyword": FusedByKeyword,
    **{f"softmax, {how}": eager(how) for how in ("method", "torch", "functional", "module")},
}


def read(module, x, **options):
    found = []
    with reading_attention({4: module}, lambda b, m: found.append((b, m)), batch=len(x), **options):
        out = module(x)
    assert [b for b, _ in found] == [4]
    return out, found[0][1]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", [NONE, BOOL, FLOAT])
@pytest.mark.parametrize("kind", READABLE.values(), ids=READABLE.keys())
def test_the_matrix_is_the_softmax_and_the_output_stays_the_same_bit_by_bit(kind, mask, scale):
    torch.manual_seed(3)
    module, x, mask = kind(mask_of(mask), scale), torch.randn(B, N, D), mask_of(mask)
    with torch.no_grad():
        plain = module(x)
        out, matrix = read(module, x)
        q, k, _ = module.project(x)
    assert torch.equal(out, plain)
    torch.testing.assert_close(matrix, literal(q, k, mask, scale), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        _, row = read(module, x, rows=slice(0, 1))
    torch.testing.assert_close(row, matrix[:, :, :1])


def test_heads_folded_into_the_batch_are_unfolded():
    module, x = Eager3d(), torch.randn(B, N, D)
    with torch.no_grad():
        out, matrix = read(module, x)
        torch.testing.assert_close(matrix, literal(*module.project(x)[:2]), rtol=1e-5, atol=1e-6)
        assert torch.equal(out, module(x))


def test_grouped_queries_share_their_keys():
    module, x = Fused(key_heads=1), torch.randn(B, N, D)
    with torch.no_grad():
        q, k, v = module.project(x)
        out, matrix = read(module, x)
        want = literal(q, k.expand(-1, H, -1, -1))
        torch.testing.assert_close(matrix, want, rtol=1e-5, atol=1e-6)
        assert torch.equal(out, module(x))
        differentiable, _ = read(module, x, differentiable=True)
    torch.testing.assert_close(differentiable, (want @ v.expand(-1, H, -1, -1)).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("mask", [NONE, BOOL, FLOAT])
@pytest.mark.parametrize("kind", [*READABLE.values(), Eager3d], ids=[*READABLE.keys(), "softmax, 3-D"])
def test_gradients_with_respect_to_the_matrix(kind, mask):
    if kind is Eager3d and mask != NONE:
        pytest.skip("has no mask")
    torch.manual_seed(3)
    module, x, mask = kind(mask_of(mask)), torch.randn(B, N, D), mask_of(mask)
    weights = torch.randn(B, N, D)
    q, k, v = (t.detach() for t in module.project(x))
    want = literal(q, k, mask).requires_grad_()
    (want_grad,) = torch.autograd.grad(((want @ v).transpose(1, 2).flatten(2) * weights).sum(), want)
    out, matrix = read(module, x, differentiable=True)
    (grad,) = torch.autograd.grad((out * weights).sum(), matrix)
    torch.testing.assert_close(grad, want_grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(matrix, want, rtol=1e-5, atol=1e-6)


class Multihead(nn.Module):
    def __init__(self, batch_first, need_weights, mask=None, **options):
        super().__init__()
        self.mha = nn.MultiheadAttention(D, H, batch_first=batch_first, **options)
        self.need_weights, self.mask = need_weights, mask
        nn.init.normal_(self.mha.in_proj_bias)

    def forward(self, x):
        if not self.mha.batch_first:
            x = x.transpose(0, 1)
        out = self.mha(x, x, x, attn_mask=self.mask, need_weights=self.need_weights)[0]
        return out if self.mha.batch_first else out.transpose(0, 1)


@pytest.mark.parametrize("mask", [NONE, BOOL, FLOAT, "one mask for each head"])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("grad", [True, False], ids=["with grad", "fast path"])
def test_multihead_attention(batch_first, need_weights, mask, grad):
    torch.manual_seed(3)
    mask = {"one mask for each head": torch.randn(B * H, N, N)}.get(mask, mask_of(mask))
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask  # True forbids in nn.MultiheadAttention
    module, x = Multihead(batch_first, need_weights, mask).eval(), torch.randn(B, N, D)
    with torch.set_grad_enabled(grad):
        plain = module(x)
        y = x if batch_first else x.transpose(0, 1)
        want = module.mha(y, y, y, attn_mask=mask, average_attn_weights=False)[1]
        out, matrix = read(module, x)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(matrix, want, rtol=1e-5, atol=1e-6)
    assert "forward" not in module.mha.__dict__


def test_multihead_attention_is_differentiable():
    module, x, weights = Multihead(True, False).eval(), torch.randn(B, N, D), torch.randn(B, N, D)
    out, matrix = read(module, x, differentiable=True)
    (grad,) = torch.autograd.grad((out * weights).sum(), matrix)
    v = F.linear(x, module.mha.in_proj_weight, module.mha.in_proj_bias).chunk(3, -1)[2]
    v = v.unflatten(-1, (H, -1)).transpose(1, 2)
    again = matrix.detach().requires_grad_()
    mixed = module.mha.out_proj((again @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(grad, torch.autograd.grad((mixed * weights).sum(), again)[0])
    torch.testing.assert_close(out, module(x))


def test_the_encoder_layer_of_torch_has_a_fast_path_that_hides_everything():
    layer, x, found = nn.TransformerEncoderLayer(D, H, 16, batch_first=True).eval(), torch.randn(B, N, D), []
    with torch.no_grad():
        plain = layer(x)
        with reading_attention({0: layer.self_attn}, lambda _, m: found.append(m), batch=B):
            out = layer(x)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[0].sum(-1), torch.ones(B, H, N))


def test_multihead_attention_that_is_not_plain_is_refused():
    x, y = torch.randn(B, N, D), torch.randn(B, N, D)
    for module, call in [
        (nn.MultiheadAttention(D, H, batch_first=True), lambda m: m(x, y, y)),
        (nn.MultiheadAttention(D, H, batch_first=True, kdim=4, vdim=4), lambda m: m(x, x, x)),
        (nn.MultiheadAttention(D, H, batch_first=True, add_bias_kv=True), lambda m: m(x, x, x)),
        (nn.MultiheadAttention(D, H, batch_first=True, add_zero_attn=True), lambda m: m(x, x, x)),
        (
            nn.MultiheadAttention(D, H, batch_first=True),
            lambda m: m(x, x, x, key_padding_mask=torch.zeros(B, N, dtype=torch.bool)),
        ),
    ]:
        with pytest.raises(LayoutError, match="plain self-attention"), reading_attention({0: module}, print, batch=B):
            call(module)
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_what_cannot_be_read_is_said():
    class Causal(Base):
        def mix(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    class Sigmoid(Base):
        def mix(self, q, k, v):
            return (q @ k.mT).sigmoid() @ v

    for kind, message in [(Causal, "causal"), (Sigmoid, "block 4 cannot be read")]:
        with pytest.raises(LayoutError, match=message):
            read(kind(), torch.randn(B, N, D))
    with pytest.raises(LayoutError, match="block 1 did not run"), reading_attention({1: Fused()}, print, batch=B):
        pass


def test_only_the_modules_asked_for_are_read_and_only_while_they_run():
    a, b, x, found = Fused(), Fused(), torch.randn(B, N, D), []
    with torch.no_grad(), reading_attention({0: a}, lambda block, m: found.append(block), batch=B):
        b(x)
        torch.randn(B, H, N, N).softmax(-1)
        a(x)
        torch.randn(B, H, N, N).softmax(-1)
        b(x)
    assert found == [0]


def test_a_softmax_that_is_no_attention_is_passed_over():
    class Gated(Fused):
        def mix(self, q, k, v):
            return super().mix(q, k, v) * q.softmax(-1)  # (B, H, N, D/H): not square

    _, matrix = read(Gated(), torch.randn(B, N, D))
    assert matrix.shape == (B, H, N, N)


def test_everything_is_gone_after_an_error_and_after_stop():
    model = toy_vit()
    for error, seen in ((Stop, nullcontext()), (ZeroDivisionError, pytest.raises(ZeroDivisionError))):

        def fail(block, matrix, error=error):
            raise error

        with seen, model.attention(fail, batch()):
            model.run(batch())
            pytest.fail("the forward went on")
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
        assert torch.overrides._get_current_function_mode_stack() == []


def test_logits_are_bit_identical_while_all_blocks_are_observed():
    model, x, found = toy_vit(), batch(), []
    with torch.no_grad():
        plain = model.module(x)
        with model.attention(lambda b, m: found.append(b), x):
            assert torch.equal(model.run(x).logits, plain)
    assert found == [0, 1, 2]


def test_rows_of_a_mask_go_with_their_queries():
    q = k = torch.randn(1, 1, N, 4)
    mask = mask_of(FLOAT)
    torch.testing.assert_close(attention_matrix(q, k, mask, rows=slice(2, 4)), literal(q, k, mask)[:, :, 2:4])
    shared = torch.randn(1, 1, 1, N)  # the same for every query
    torch.testing.assert_close(attention_matrix(q, k, shared, rows=slice(2, 4)), literal(q, k, shared)[:, :, 2:4])
