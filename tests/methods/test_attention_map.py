"""Attention map and rollout against softmax and matrix products written out."""

from __future__ import annotations

import literal
import pytest
import torch
from toys import batch, toy_cnn, toy_vit

from seewhy.errors import ModelError, NonFiniteError, OptionError, RequirementError, UnknownNameError
from seewhy.methods import AttentionMap, Rollout

VITS = {"class token": {}, "registers": {"prefix": 5}, "four heads": {"heads": 4}}


@pytest.fixture(params=VITS.values(), ids=VITS.keys())
def model(request):
    model = toy_vit(**request.param)
    model.module.double()
    return model


def matrices(model, x):
    return literal.through(model.module, literal.embed(model.module, x))[1]


def grid(model, values):
    return literal.on_grid(values, model.module.prefix, 4, 6)


@pytest.mark.parametrize("block", [-1, 0, 1])
def test_attention_map_is_the_class_tokens_row_of_the_softmax(model, x, block, agree):
    rows = matrices(model, x)[block][:, :, 0]
    agree("Attention map", "literal softmax", AttentionMap(model, block=block)(x), grid(model, rows.mean(1)))
    for head in range(rows.shape[1]):
        got = AttentionMap(model, block=block, head=head)(x)
        agree("Attention map, one head", "literal softmax", got, grid(model, rows[:, head]))
        torch.testing.assert_close(got, AttentionMap(model, block=block).heads(x)[:, head])


def test_heads_are_as_careful_as_a_call():
    model = toy_vit()
    with pytest.raises(ModelError, match="empty"):
        AttentionMap(model).heads(batch()[:0])
    assert AttentionMap(model).heads(batch().double()).dtype == torch.float32
    with torch.no_grad():
        model.module.patch_embed.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        AttentionMap(model).heads(batch())


def test_attention_map_is_not_renormalized(model, x):
    missing = 1 - AttentionMap(model)(x).sum((1, 2)).double()
    to_prefix = matrices(model, x)[-1][:, :, 0, : model.module.prefix].mean(1).sum(1)
    torch.testing.assert_close(missing, to_prefix, rtol=1e-5, atol=1e-6)
    assert missing.min() > 1e-3


@pytest.mark.parametrize("start_block", [0, 1, 2])
def test_rollout_is_the_product_later_times_earlier(model, x, start_block, agree):
    every = matrices(model, x)[start_block:]
    want = torch.zeros(2, every[0].shape[-1], dtype=torch.float64)
    for image in range(2):
        product = torch.eye(every[0].shape[-1], dtype=torch.float64)
        for matrix in every:  # from early to late: each later one comes in front
            mixed = sum(matrix[image]) / len(matrix[image]) + torch.eye(len(product))
            product = (mixed / mixed.sum(1)[:, None]) @ product
        want[image] = product[0]
    agree("Rollout", "literal matrix product", Rollout(model, start_block=start_block)(x), grid(model, want))


def test_labels_do_not_matter(x):
    model = toy_vit()
    for cls in (AttentionMap, Rollout):
        assert torch.equal(cls(model)(x.float(), 1), cls(model)(x.float(), "no such class"))


def test_what_cannot_work_is_said():
    model = toy_vit()
    with pytest.raises(OptionError, match=r"head=2 does not exist.*0 to 1"):
        AttentionMap(model, head=2)(batch())
    with pytest.raises(OptionError, match="head"):
        AttentionMap(model, head=-1)
    with pytest.raises(UnknownNameError, match="block"):
        AttentionMap(model, block=3)(batch())
    with pytest.raises(OptionError, match="start_block=3 leaves no block"):
        Rollout(model, start_block=3)
    for refused in (toy_cnn(), toy_vit(prefix=0, pool="mean")):
        for cls in (AttentionMap, Rollout):
            with pytest.raises(RequirementError, match="class token"):
                cls(refused)
