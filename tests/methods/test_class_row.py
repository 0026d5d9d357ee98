"""The class token's row of the last block against the whole block, where it may be used, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toys import ToyAttention, batch, toy_vit

from seewhy.bench.speed.memory import peak_bytes
from seewhy.checks.state import PassCounter
from seewhy.core.cards import Passes
from seewhy.methods import CDAM, ConceptCDAM, IntegratedCDAM, SmoothCDAM
from seewhy.targets import ClassTarget, Similarity

CASES = [
    (CDAM, {}),
    (IntegratedCDAM, {"n_steps": 5}),
    (IntegratedCDAM, {"n_steps": 5, "start_value": 0.5}),
    (IntegratedCDAM, {"n_steps": 5, "at": "norm1", "start_value": 0.5}),
    (SmoothCDAM, {"n_samples": 5}),
    (SmoothCDAM, {"n_samples": 5, "at": "norm1", "sigma": 0.3, "sigma_unit": "absolute"}),
]
CPU = torch.device("cpu")


def whole_block(cls, model, **options):
    method = cls(model, **options)
    method.whole_block = "for comparison"
    return method


@pytest.mark.parametrize(("cls", "options"), CASES)
@pytest.mark.parametrize("shape", [{}, {"prefix": 5, "heads": 1}, {"depth": 1}], ids=str)
def test_the_row_equals_the_whole_block(cls, options, shape, x, agree):
    """All tokens, so also the class token with the share that comes through its query; in chunks and at once."""
    model = toy_vit(**shape)
    model.module.double()
    for size in (3, 100):
        chunk = {} if cls is CDAM else {"batch_size": size}
        row, whole = cls(model, **options, **chunk), whole_block(cls, model, **options)
        target = ClassTarget((3, 1))
        with torch.no_grad():
            agree(cls.__name__, "whole block", row.tokens(x, target), whole.tokens(x, target))
        assert not row.whole_block or shape == {"depth": 1}  # a toy adds its positions outside of any module


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_the_row_in_float32_and_under_autocast(cls, options, agree):
    model = toy_vit()
    want = whole_block(cls, model, **options)(batch(), [3, 1])
    agree(cls.__name__, "whole block, float32", cls(model, **options)(batch(), [3, 1]), want, 1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method = cls(model, **options)
        agree(cls.__name__, "whole block, bfloat16", method(batch(), [3, 1]), want, 0.1)
    assert not method.whole_block


class NormedAttention(ToyAttention):
    """Queries and keys of length one, as in ViT-22B."""

    def split(self, x):
        q, k, v = super().split(x)
        return nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1), v


class BiasedAttention(ToyAttention):
    """A bias for each pair of places, which is given to the kernel."""

    def forward(self, x):
        n = x.shape[1]
        bias = torch.linspace(0, 1, n).to(x).expand(n, n)
        mixed = nn.functional.scaled_dot_product_attention(*self.split(x), attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class TalkingAttention(ToyAttention):
    """Heads that talk with each other: no fused kernel."""

    def forward(self, x):
        q, k, v = self.split(x)
        weights = (q @ k.mT).flip(1).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class PlacedAttention(ToyAttention):
    """Keys that depend on the place."""

    def split(self, x):
        q, k, v = super().split(x)
        return q, k * torch.linspace(1, 2, k.shape[2]).to(k)[:, None], v


def reads_two_tokens(vit):
    vit.pooled = lambda tokens: vit.norm(tokens)[:, :2].mean(1)


def mixes_in_its_mlp(vit):
    """A convolution over the tokens after the last attention."""
    conv = nn.Conv1d(16, 16, 3, padding=1).to(vit.head.weight)
    mlp = vit.blocks[-1].mlp
    vit.blocks[-1].mlp = nn.Sequential(mlp, Transposed(conv))


class Transposed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.mT).mT


def with_attention(cls):
    def change(vit):
        attention = cls(16, 2).to(vit.head.weight)
        attention.load_state_dict(vit.blocks[-1].attn.state_dict())
        vit.blocks[-1].attn = attention

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (with_attention(NormedAttention), "affine"),
        (with_attention(BiasedAttention), "mask"),
        (with_attention(TalkingAttention), "fused kernel"),
        (with_attention(PlacedAttention), "affine"),
        (reads_two_tokens, "more than the class token"),
        (mixes_in_its_mlp, "conv1d"),
    ],
)
@pytest.mark.parametrize(("cls", "options"), [CASES[0], CASES[1], CASES[4]])
def test_other_models_run_the_whole_block_and_say_why(cls, options, change, why, x):
    model = toy_vit()
    change(model.module.double())
    method = cls(model, **options)
    for target in ([3, 1], None) if cls is CDAM else ([3, 1],):
        maps = method(x, target)
        torch.testing.assert_close(maps, whole_block(cls, model, **options)(x, target))
    assert why in method.whole_block
    assert "row" not in method.cost.parts
    with torch.no_grad():
        answer = ClassTarget(tuple(model.run(x).logits.argmax(1).tolist()))
    torch.testing.assert_close(method(x), method(x, answer))  # the answer is asked once, also where a row was tried


def test_a_head_that_pools_patches_is_known_before_any_forward():
    assert "row" in CDAM(toy_vit()).cost.parts
    assert "row" not in CDAM(toy_vit(pool="mean")).cost.parts


@pytest.mark.parametrize(("cls", "options"), CASES)
def test_several_classes_of_an_image_share_the_trunk(cls, options):
    model, index, classes = toy_vit(), [1, 0, 1, 1], [0, 1, 2, 3]
    alone = torch.cat([cls(model, **options)(batch()[[i]], [c]) for i, c in zip(index, classes, strict=True)])
    method = cls(model, **options)
    counter = PassCounter(model)
    maps = method(batch(), classes, image_index=index)
    torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-6)
    assert counter.passes("blocks.0") == Passes(2)


def operations(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def small_vit():
    """Wide and deep enough that its products outweigh what is small in a real one; 197 tokens."""
    return toy_vit(size=(112, 112), dim=96, heads=3, depth=12)


@pytest.mark.parametrize(
    ("cls", "options", "budget", "megabytes"),
    [
        (CDAM, {}, 1.0, 5),
        (ConceptCDAM, {}, 1.0, 5),
        (IntegratedCDAM, {}, 1.2, 20),
        (IntegratedCDAM, {"at": "norm1"}, 1.2, 20),
        (SmoothCDAM, {}, 1.2, 20),
        (SmoothCDAM, {"at": "norm1"}, 1.2, 20),
    ],
)
def test_operations_and_memory_stay_near_one_forward(small_vit, cls, options, budget, megabytes):
    """Of ViT-S/16 it is less: the class token's row grows with the heads, the trunk with the width."""
    x = torch.randn(1, 3, 112, 112)
    one = operations(lambda: small_vit.module(x))
    target = Similarity(torch.randn(96), kind="concept") if cls is ConceptCDAM else 3
    method = cls(small_vit, **options)
    assert operations(lambda: method(x, target)) < budget * one
    assert peak_bytes(lambda: method(x, target), CPU) < megabytes * 1e6
    if cls is CDAM:
        five = operations(lambda: method(x, [0, 1, 2, 3, 4], image_index=[0] * 5))
        assert five < operations(lambda: method(x, 3)) + 4 * 0.01 * one
