"""The contract between models and methods, on toys whose inside is known."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn
from toys import ToyCNN, ToyViT, batch, toy_cnn, toy_vit

from seewhy.core.cards import Capability
from seewhy.core.preprocess import Preprocess
from seewhy.errors import (
    ImageError,
    LayoutError,
    ModelError,
    NonFiniteError,
    RequirementError,
    TargetError,
    UnknownNameError,
)
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Block, Layer, Structure
from seewhy.targets import Output

# ── what it is ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_offers_follow_from_the_structure():
    everything = set(Capability) - {Capability.SEGMENTATION, Capability.DETECTIONS}
    tokens = {Capability.TOKENS, Capability.ATTENTION, Capability.LAST_BLOCK, Capability.CLASS_TOKEN}
    assert toy_vit().capabilities == everything
    assert toy_cnn().capabilities == everything - tokens
    assert toy_vit(prefix=0, pool="mean").capabilities == everything - {Capability.CLASS_TOKEN}
    bare = Structure("toy")
    assert bare.capabilities == {Capability.EMBEDDING, Capability.GRADIENTS}
    assert Structure("toy", has_logits=True).capabilities == bare.capabilities | {Capability.LOGITS}
    assert Structure("toy", head="head", has_logits=False).capabilities == bare.capabilities
    assert toy_cnn().missing_capabilities(frozenset({Capability.ATTENTION, Capability.LOGITS})) == [
        "global attention matrices"
    ]


def test_the_number_of_classes_from_what_is_known():
    assert toy_cnn().classes == 5
    module = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)))
    assert VisionModel(module, Structure("toy", head="1")).classes == 3
    assert VisionModel(module, Structure("toy", classes=9)).classes == 9
    assert VisionModel(module, Structure("toy"), class_names=["a", "b"]).classes == 2
    assert VisionModel(module, Structure("toy")).classes is None


def test_device_and_type_are_the_parameters():
    model = toy_cnn()
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    model.module.to("meta", torch.bfloat16)
    assert (model.device.type, model.dtype) == ("meta", torch.bfloat16)
    assert VisionModel(nn.ReLU(), Structure("toy")).device.type == "cpu"
    moved = toy_cnn()
    assert moved.to("meta") is moved
    assert moved.device.type == "meta"


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_by_name_number_module_and_default():
    model = toy_cnn()
    last, first = Layer("stage2", "nchw"), Layer("stage1", "nchw")
    for spec in (None, 1, -1, "stage2", model.module.stage2, last):
        assert model.layer(spec) == last
    for spec in (0, -2, "stage1", model.module.stage1):
        assert model.layer(spec) == first
    assert model.layer("stage2.1") == Layer("stage2.1", "nchw")
    assert toy_vit().layer("blocks.1.norm2") == Layer("blocks.1.norm2", "tokens")
    assert toy_vit().layer("patch_embed") == Layer("patch_embed", "nchw")  # a convolution among tokens
    assert model.layer("head", layout="nhwc") == Layer("head", "nhwc")
    for spec, near in [
        ("stage3", "'stage[12]'"),
        (7, "choose from 0, 1"),
        (nn.ReLU(), "not part"),
        (Layer("stagee2", "nchw"), "'stage2'"),
    ]:
        with pytest.raises(UnknownNameError, match=near):
            model.layer(spec)
    with pytest.raises(UnknownNameError, match="did you mean 'nhwc'"):
        Layer("stage1", "hwc")


def test_an_ambiguous_layout_is_asked_for():
    module = ToyViT()
    mixed = VisionModel(module, Structure("toy", stages=(Layer("patch_embed", "nchw"), Layer("blocks.0", "tokens"))))
    assert mixed.layer("blocks.0.mlp").layout == "tokens"  # inside a stage
    with pytest.raises(LayoutError, match="'norm' is ambiguous; say layout="):
        mixed.layer("norm")
    with pytest.raises(LayoutError, match="name one with layer="):
        VisionModel(module, Structure("toy")).layer()


@pytest.mark.parametrize("dead", ["blocks.2", "blocks.2.norm2", "blocks.2.mlp", "blocks.2.mlp.0", "norm"])
def test_layers_after_the_last_attention_are_refused_for_class_token_models(dead):
    with pytest.raises(LayoutError, match=r"use layer='blocks\.2\.norm1'"):
        toy_vit().cam_layer(dead)
    assert toy_vit().layer(dead).name == dead  # its activations can be looked at
    assert toy_vit(prefix=0, pool="mean").cam_layer(dead).name == dead


@pytest.mark.parametrize(
    "alive", [None, "blocks.2.norm1", "blocks.2.attn.qkv", "blocks.1", "blocks.0.mlp", "patch_embed"]
)
def test_layers_before_it_are_not(alive):
    assert toy_vit().cam_layer(alive).name == (alive or "blocks.2.norm1")


# ── grids ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_grids_are_rows_then_columns():
    model = toy_vit()
    assert model.grid(32, 48) == (4, 6)
    assert model.grid(64, 16) == (8, 2)
    padding = VisionModel(ToyViT(), Structure("toy", patch_size=(8, 8), pads=True))
    assert padding.grid(33, 48) == (5, 6)
    assert VisionModel(ToyViT(), Structure("toy", patch_size=(8, 8), pads=False)).grid(33, 48) == (4, 6)
    assert model.grid(32, 48, (16, 4)) == (2, 12)
    with pytest.raises(LayoutError, match="patch size is unknown"):
        toy_cnn().grid(32, 48)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_lie_row_after_row_behind_the_prefix(prefix):
    model = toy_vit(prefix=prefix, pool="mean")
    values = torch.full((1, prefix + 24), -1.0)
    values[0, prefix:] = torch.arange(24.0)
    grid = model.tokens_to_map(values, (32, 48))[0]
    assert [[int(v) for v in row] for row in grid] == [list(range(6 * r, 6 * r + 6)) for r in range(4)]


@pytest.mark.parametrize("cell", [(0, 0), (3, 1), (1, 5)])
def test_a_change_in_a_patch_is_a_change_in_its_cell(cell):
    """From pixels to the grid: fails if rows and columns are exchanged anywhere between."""
    model, (row, col), x = toy_vit(prefix=3), cell, batch(1)
    changed = x.clone()
    changed[..., 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] += 1
    with torch.no_grad():
        moved = (model.module.embed(changed) - model.module.embed(x)).abs().sum(-1)
    (where,) = model.tokens_to_map(moved, (32, 48))[0].nonzero().tolist()
    assert tuple(where) == cell


def test_each_layout_becomes_channels_then_rows_then_columns():
    model, x = toy_vit(), torch.randn(2, 7, 4, 6)
    assert torch.equal(model.to_grid(x, Layer("a", "nchw"), (32, 48)), x)
    assert torch.equal(model.to_grid(x.permute(0, 2, 3, 1), Layer("a", "nhwc"), (32, 48)), x)
    tokens = torch.cat([torch.zeros(2, 1, 7), x.flatten(2).mT], 1)
    assert torch.equal(model.to_grid(tokens, Layer("a", "tokens"), (32, 48)), x)
    assert torch.equal(model.to_grid(tokens[:, 1:], Layer("a", "tokens", prefix=0), (32, 48)), x)
    coarse = x[:, :, ::2, ::2]
    assert torch.equal(model.to_grid(coarse.flatten(2).mT, Layer("a", "tokens", (16, 16), 0), (32, 48)), coarse)


def test_what_does_not_fit_the_grid_is_an_error_not_a_guess():
    """Pitfall 4: 28 × 14 patches must not become 19 × 19 with 32 prefix tokens."""
    model = toy_vit()
    for value, layout in [
        (torch.zeros(1, 24, 16), "tokens"),
        (torch.zeros(1, 26, 16), "tokens"),
        (torch.zeros(1, 16, 4, 6), "tokens"),
        (torch.zeros(1, 25, 16), "nchw"),
        (torch.zeros(1, 16), "nhwc"),
    ]:
        with pytest.raises(LayoutError, match=r"gives shape \(1, "):
            model.to_grid(value, Layer("a", layout), (32, 48))
    with pytest.raises(LayoutError, match=r"1 \+ 4×6"):
        model.tokens_to_map(torch.zeros(1, 24), (32, 48))


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_run_gives_logits_and_the_heads_input_as_embedding():
    model, x = toy_vit(), batch()
    with torch.no_grad():
        output = model.run(x)
        pooled = model.module.pooled(model.module.blocks(model.module.embed(x)))
        assert torch.equal(output.logits, model.module(x))
    torch.testing.assert_close(output.embedding, pooled)
    assert not model.module.head._forward_hooks


def test_run_of_a_model_without_head_gives_its_result_as_embedding():
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(2))
    output = VisionModel(module, Structure("toy")).run(batch())
    assert output.logits is None
    assert output.embedding.shape == (2, 8)


def test_results_of_another_shape_are_refused_or_read():
    class Odd(nn.Module):
        def forward(self, x, *, scale=1.0):
            return {"scores": x.mean((2, 3)) * scale}

    with pytest.raises(LayoutError, match=r"returns dict, not a tensor; .*read="):
        VisionModel(Odd(), Structure("toy")).run(batch())
    read = Structure("toy", read=lambda raw, _: Output(logits=raw["scores"]), call={"scale": 3.0}, has_logits=True)
    torch.testing.assert_close(VisionModel(Odd(), read).run(batch()).logits, 3 * batch().mean((2, 3)))


def test_activations_of_several_layers_from_one_forward_that_stops():
    model, x, ran = toy_cnn(), batch(), []
    model.module.eval().head.register_forward_hook(lambda *_: ran.append("head"))
    found = model.activations(x, [model.layer("stage2.0"), model.layer("stage1.1")])
    with torch.no_grad():
        normed = model.module.stage1[1](model.module.stage1[0](x))
        torch.testing.assert_close(found["stage1.1"], normed)  # not what the in-place ReLU made of it
        torch.testing.assert_close(found["stage2.0"], model.module.stage2[0](normed.relu()))
    assert ran == []
    assert not found["stage2.0"].requires_grad


def test_tokens_of_blocks_keep_their_prefix():
    model, x = toy_vit(prefix=5), batch()
    found = model.tokens(x)
    with torch.no_grad():
        tokens = model.module.embed(x)
        for i, block in enumerate(model.module.blocks):
            tokens = block(tokens)
            torch.testing.assert_close(found[i], tokens)
    assert list(model.tokens(x, [-1, 0])) == [2, 0]
    with pytest.raises(UnknownNameError, match="choose from 0, 1, 2"):
        model.tokens(x, [3])
    with pytest.raises(UnknownNameError, match="'-4'"):
        model.tokens(x, [-4])
    with pytest.raises(RequirementError, match="no transformer blocks"):
        toy_cnn().tokens(x)


def test_a_tail_goes_from_values_at_a_layer_to_an_output():
    model, x = toy_vit(), batch()
    tail = model.tail(x, model.structure.cam_layer)
    with torch.no_grad():
        output, want = tail(tail.value.repeat(2, 1, 1)), model.run(x)
    torch.testing.assert_close(output.logits, want.logits.repeat(2, 1))
    torch.testing.assert_close(output.embedding, want.embedding.repeat(2, 1))
    assert not tail.value.requires_grad


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_predictions_are_made_in_eval_mode_and_leave_the_model_alone(cat):
    model = toy_cnn()
    model.module.train()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    logits = model.predict([cat, cat])
    assert all(m.training for m in model.module.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits, model.module.eval()(model.preprocess_images([cat, cat])))
    assert not logits.requires_grad
    torch.testing.assert_close(model.embed(cat), model.run(model.preprocess_images(cat)).embedding)
    with pytest.raises(TargetError, match="no logits"):
        VisionModel(nn.Conv2d(3, 1, 1), Structure("toy"), preprocess=Preprocess(size=(32, 48))).predict(cat)


def test_prepare_gives_the_models_type_and_refuses_different_sizes(cat, coffee):
    model = toy_cnn()
    model.module.double()
    assert model.preprocess_images([cat, coffee]).dtype == torch.float64
    assert model.preprocess_images(cat).shape == (1, 3, 32, 48)
    free = VisionModel(ToyCNN(), Structure("toy"), preprocess=lambda image: torch.zeros(3, image.height, image.width))
    with pytest.raises(ImageError, match="different sizes"):
        free.preprocess_images([cat, coffee])


def test_nan_answers_are_an_error(cat):
    model = toy_cnn()
    with torch.no_grad():
        model.module.head.bias[2] = float("inf")
    with pytest.raises(NonFiniteError, match="toy_cnn gives NaN or infinite values"):
        model.predict(cat)


def test_another_size():
    model = toy_cnn()
    other = model.with_size(64, 32)
    assert other.preprocess_images(Image.new("RGB", (50, 50))).shape == (1, 3, 64, 32)
    assert other.module is model.module
    assert model.preprocess_images(Image.new("RGB", (50, 50))).shape == (1, 3, 32, 48)
    own = VisionModel(ToyCNN(), Structure("toy"), preprocess=lambda image: torch.zeros(3, 8, 8))
    with pytest.raises(ModelError, match="own preprocess"):
        own.with_size(64, 32)


def test_probabilities():
    logits = torch.tensor([[0.0, 2.0]])
    model = toy_cnn()
    torch.testing.assert_close(model.probabilities(logits).sum(), torch.tensor(1.0))
    many = VisionModel(ToyCNN(), Structure("toy", multi_label=True))
    torch.testing.assert_close(many.probabilities(logits), torch.tensor([[0.5, 0.8807970]]))


def test_attention_goes_by_block_number():
    model, found = toy_vit(), []
    with torch.no_grad(), model.attention(lambda b, m: found.append((b, m.shape)), batch(), blocks=[-1, 0]):
        model.run(batch())
    assert found == [(0, (2, 2, 25, 25)), (2, (2, 2, 25, 25))]
    blocks = (Block("norm", "norm", "norm"),)
    wrong = VisionModel(ToyViT(), Structure("toy", blocks=blocks, class_token=True))
    with pytest.raises(LayoutError, match="cannot be read"), wrong.attention(print, batch()):
        wrong.run(batch())
