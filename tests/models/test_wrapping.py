"""Unknown modules are opened up by what they do; what cannot be told is asked for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from models.adapter_checks import check_cut, check_places, check_run, check_tail, image, left_alone, shaken
from torch import Tensor, nn
from toys import ToyAttention, ToyBlock, ToyCNN, ToyViT

import seewhy
from seewhy.core.cards import Capability
from seewhy.core.preprocess import Preprocess
from seewhy.errors import (
    LayoutError,
    ModelError,
    NonFiniteError,
    OptionError,
    RequirementError,
    TargetError,
    UnknownNameError,
)
from seewhy.methods import METHODS, GradCAM
from seewhy.models.infer.wrapping import wrap
from seewhy.models.structure import Block, Layer, Structure
from seewhy.targets import Output

SIZE = (32, 48)


def names(model) -> list[str]:
    return [layer.name for layer in model.structure.stages]


def check(model, shapes, size=SIZE) -> None:
    """Stages lie where they should, and the layer for gradients is whole, reached and separable."""
    x = image(*size)
    check_places(model, x, model.structure.stages, shapes)
    check_cut(model, x, model.structure.cam_layer)
    check_tail(model, x, model.structure.cam_layer)


# ── maps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def plain_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 9, 3, 1, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(9, 5),
    )


def test_plain_cnn_has_the_map_after_the_activation_and_before_the_pooling() -> None:
    module = shaken(plain_cnn())
    with left_alone(module):
        model = wrap(module, input_size=SIZE)
    assert names(model) == ["4", "7"]
    assert model.structure.cam_layer == Layer("7", "nchw")
    assert (model.structure.head, model.classes) == ("12", 5)
    x = image(*SIZE)
    check_run(model, x, module(x), module[:-1](x))
    check(model, [(16, 24), (8, 12)])


def test_modules_that_change_their_input_in_place() -> None:
    class Normalized(ToyCNN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5).div_(0.25))

    model = wrap(shaken(Normalized()), input_size=SIZE)
    assert names(model) == ["stage1", "stage2"]
    assert model.structure.cam_layer == Layer("stage2", "nchw")


class Residual(nn.Module):
    """A residual block with a functional ReLU after the sum."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inner, outer, 3, stride, 1), nn.Conv2d(outer, outer, 3, 1, 1)
        self.short = nn.Conv2d(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.short(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = nn.Sequential(Residual(8, 8, 1), Residual(8, 8, 1), Residual(8, 12, 2), Residual(12, 12, 1))
        self.classifier = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.classifier(self.body(self.stem(x)).mean((2, 3))), -1)


def test_stages_are_block_outputs_never_inside_of_residual_branches() -> None:
    model = wrap(shaken(ResNet()), input_size=SIZE)
    assert names(model) == ["body.1", "body"]
    assert model.structure.head == "classifier"  # its logits become probabilities outside of any module
    check(model, [(16, 24), (8, 12)])


class ChannelsLast(nn.Module):
    """Norms and linear layers over the last axis, as ConvNeXt and Swin are written; 16 × 16 × 16 and 8 × 8 × 8."""

    def __init__(self, widths: tuple[int, int] = (16, 8)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 2, 2)
        self.norm1, self.mlp1 = nn.LayerNorm(widths[0]), nn.Linear(widths[0], widths[0])
        self.merge, self.norm2 = nn.Linear(4 * widths[0], widths[1]), nn.LayerNorm(widths[1])
        self.head = nn.Linear(widths[1], 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + F.gelu(self.mlp1(self.norm1(x)))
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        return self.head(self.norm2(self.merge(x)).mean((1, 2)))


def test_channels_last_is_told_by_what_norms_the_last_axis() -> None:
    model = wrap(shaken(ChannelsLast()), input_size=32)
    assert model.structure.stages == (Layer("stem", "nchw"), Layer("norm2", "nhwc"))
    check(model, [(16, 16), (8, 8)], (32, 32))


class Opaque(nn.Module):
    """A map of 8 channels on 8 × 8 cells, made and taken by functions only."""

    def __init__(self, channels_last: bool = False) -> None:
        super().__init__()
        self.block, self.last = nn.Identity(), channels_last
        self.weight = nn.Parameter(torch.randn(8, 3, 4, 4))
        self.register_module("scale", Scale())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, stride=4)
        x = self.scale(x.permute(0, 2, 3, 1).contiguous() if self.last else x)
        return self.head(x.mean((1, 2) if self.last else (2, 3)))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.factor * x)


@pytest.mark.parametrize("last", [False, True])
def test_ambiguous_layout_is_asked_for_and_settled(last: bool) -> None:
    module = shaken(Opaque(last))
    with pytest.raises(LayoutError, match=r"'scale' gives shape \(3, 8, 8, 8\).*layout='nchw'"):
        wrap(module, input_size=32)
    model = wrap(module, input_size=32, layout="nhwc" if last else "nchw")
    check(model, [(8, 8)], (32, 32))
    # on an image with other proportions there is no doubt
    model = wrap(module, input_size=(32, 64))
    assert model.structure.stages == (Layer("scale", "nhwc" if last else "nchw"),)


class UNet(nn.Module):
    """Down to a quarter and up again, with skips; gives a map of 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.middle = nn.Sequential(nn.Conv2d(8, 10, 3, 2, 1), nn.ReLU())
        self.up2, self.up1 = nn.Conv2d(18, 8, 3, 1, 1), nn.Conv2d(14, 6, 3, 1, 1)
        self.out = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down1(x))
        b = F.relu(self.down2(a))
        up = F.relu(self.up2(torch.cat([F.interpolate(self.middle(b), scale_factor=2), b], 1)))
        return self.out(F.relu(self.up1(torch.cat([F.interpolate(up, scale_factor=2), a], 1))))


def test_u_net_says_how_its_map_becomes_scores_and_keeps_its_middle() -> None:
    module = shaken(UNet())
    with pytest.raises(LayoutError, match=r"returns shape \(3, 5, 32, 48\).*read="):
        wrap(module, input_size=SIZE)
    model = wrap(module, input_size=SIZE, read=lambda raw, _: Output(logits=raw.mean((2, 3))))
    assert names(model) == ["middle", "up2", "up1"]  # what comes out is no layer to explain it by
    assert Capability.EMBEDDING not in model.capabilities
    assert model.classes == 5
    maps = model.activations(image(*SIZE), model.structure.stages)
    assert [tuple(m.shape[-2:]) for m in maps.values()] == [(8, 12), (16, 24), (32, 48)]


def test_a_map_of_another_size_than_the_last_linear_is_no_embedding() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = wrap(trunk, input_size=16)
    assert Capability.LOGITS not in model.capabilities
    assert "output='logits'" in model.structure.note
    assert torch.equal(model.run(image(16, 16)).embedding, trunk(image(16, 16)))
    scores = wrap(trunk, input_size=16, output="logits")
    assert (scores.classes, Capability.EMBEDDING in scores.capabilities) == (4, False)
    assert wrap(trunk, input_size=16, class_names=list("abcd")).capabilities >= {Capability.LOGITS}


def test_one_layer_has_no_maps_and_methods_say_why() -> None:
    model = wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), input_size=16)
    assert (model.structure.stages, model.structure.cam_layer, model.classes) == ((), None, 4)
    working = [card.card.name for card in METHODS.values() if not card.why_incompatible(model)]
    assert "saliency" in working
    assert "feature maps" in METHODS["grad_cam"].why_incompatible(model)


# ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("prefix", "pool"), [(1, "cls"), (0, "mean"), (5, "cls"), (4, "mean")])
def test_vit_is_opened_up(prefix: int, pool: str) -> None:
    module = shaken(ToyViT(SIZE, prefix=prefix, pool=pool))
    model = wrap(module, input_size=SIZE)
    structure = model.structure
    assert names(model) == ["blocks.0", "blocks.1", "blocks.2"]
    assert structure.blocks == tuple(Block(n, f"{n}.norm1", f"{n}.attn") for n in names(model))
    assert (structure.prefix_tokens, structure.patch_size, structure.head) == (prefix, (8, 8), "head")
    assert (structure.class_token, structure.reads_patches) == (pool == "cls", pool == "mean")
    assert structure.cam_layer == Layer("blocks.2.norm1", "tokens")  # after it a class token hears nothing more
    x = image(*SIZE)
    check_run(model, x, module(x), module.pooled(module.blocks(module.embed(x))))
    check(model, [(4, 6)] * 3)


class Patches(nn.Module):
    """Patches cut out by reshaping and projected by a linear layer; `order` is how they are then counted."""

    def __init__(
        self,
        patch: tuple[int, int] = (8, 8),
        order: str = "rows",
        extra: int = 1,
        last: bool = False,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.order, self.last, self.mixed = patch, order, last, mixed
        self.project = nn.Linear(3 * math.prod(patch), 16)
        self.extra = nn.Parameter(torch.randn(1, extra, 16))
        self.blocks = nn.Sequential(*[ToyBlock(16, 2) for _ in range(2)])
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        rows = SIZE[0] // self.patch[0]
        if self.order == "cols":
            x = x.unflatten(1, (rows, -1)).transpose(1, 2).flatten(1, 2)
        x = self.project(x)
        x = x + x.mean(1, keepdim=True) if self.mixed else x
        extra = self.extra.expand(len(x), -1, -1)
        x = torch.cat([x, extra] if self.last else [extra, x], 1)
        return self.head(self.blocks(x).mean(1))


@pytest.mark.parametrize("patch", [(8, 8), (4, 8), (16, 12)])
def test_grid_is_measured_where_no_convolution_tells_it(patch: tuple[int, int]) -> None:
    """24, 48 and 8 patches: 48 of them would as well lie 6 × 8, and 8 of them 2 × 4 or 4 × 2."""
    model = wrap(shaken(Patches(patch, extra=3)), input_size=SIZE)
    assert (model.structure.patch_size, model.structure.prefix_tokens) == (patch, 3)
    check_places(model, image(*SIZE), model.structure.stages, [(SIZE[0] // patch[0], SIZE[1] // patch[1])] * 2)


def test_tokens_in_another_order_are_refused() -> None:
    with pytest.raises(LayoutError, match="patch_size"):
        wrap(shaken(Patches(order="cols")), input_size=SIZE)
    with pytest.raises(LayoutError, match="come first"):
        wrap(shaken(Patches(last=True)), input_size=SIZE)


def test_user_settles_what_cannot_be_measured() -> None:
    module = shaken(Patches(mixed=True))  # the top row of pixels reaches every token
    with pytest.raises(LayoutError, match=r"wrap\(module, patch_size=…, prefix_tokens=…\)"):
        wrap(module, input_size=SIZE)
    assert wrap(module, input_size=SIZE, patch_size=8).structure.prefix_tokens == 1
    with pytest.raises(LayoutError, match=r"25 tokens are not 1 \+ 8×12; check patch_size"):
        wrap(module, input_size=SIZE, patch_size=4)
    with pytest.raises(LayoutError, match="check patch_size= and prefix_tokens="):
        wrap(module, input_size=SIZE, patch_size=8, prefix_tokens=2)


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` as people use it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mha = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.mha(y, y, y, need_weights=False)[0]


class ByHand(nn.Module):
    """A softmax written out."""

    def __init__(self) -> None:
        super().__init__()
        self.pre, self.core = nn.LayerNorm(16), SoftmaxCore()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.core(self.pre(x))


class SoftmaxCore(ToyAttention):
    def __init__(self) -> None:
        super().__init__(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return self.proj(((q @ k.mT / math.sqrt(8)).softmax(-1) @ v).transpose(1, 2).flatten(2))


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)


@pytest.mark.parametrize(
    ("make", "norm", "attention"),
    [
        (SelfAttention, "norm", "mha"),
        (ByHand, "pre", "core"),
        (encoder_layer, "norm1", "self_attn"),
        (lambda: nn.Sequential(ByHand(), nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16))), "0.pre", "0.core"),
    ],
)
def test_blocks_are_known_by_what_they_compute(make, norm: str, attention: str) -> None:
    module = ToyViT(SIZE, depth=2)
    module.blocks = nn.Sequential(make(), make())
    model = wrap(shaken(module), input_size=SIZE)
    assert len(model.structure.blocks) == 2
    last = model.structure.blocks[-1]
    assert last.norm1 == f"blocks.1.{norm}" or last.norm1.endswith(norm)
    assert last.attention.endswith(attention)
    x = image(*SIZE)
    with torch.no_grad():
        plain, found = model.run(x).logits, {}
        with model.attention(found.__setitem__, x):
            torch.testing.assert_close(model.run(x).logits, plain, atol=1e-5, rtol=1e-5)
    assert {k: tuple(v.shape) for k, v in found.items()} == dict.fromkeys((0, 1), (2, 2, 25, 25))
    torch.testing.assert_close(found[1].sum(-1), torch.ones(2, 2, 25))
    check(model, [(4, 6)] * 2)


class NormOfSomethingElse(ByHand):
    """What is normed is not what the block takes, so a gradient at the norm is none at the block's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.core(self.pre(self.mix(x)))


def test_a_block_norms_what_it_takes() -> None:
    module = ToyViT(SIZE, depth=2)
    module.blocks = nn.Sequential(NormOfSomethingElse(), NormOfSomethingElse())
    assert wrap(shaken(module), input_size=SIZE).structure.blocks == ()


def test_registers_in_a_mean_over_all_tokens_are_no_class_token() -> None:
    class MeanOfAll(ToyViT):
        def pooled(self, tokens: Tensor) -> Tensor:
            return self.norm(tokens).mean(1)

    structure = wrap(shaken(MeanOfAll(SIZE, prefix=3)), input_size=SIZE).structure
    assert (structure.prefix_tokens, structure.class_token, structure.reads_patches) == (3, False, True)
    structure = wrap(shaken(MeanOfAll(SIZE, prefix=1)), input_size=SIZE).structure
    assert (structure.class_token, structure.reads_patches) == (True, True)


def test_norm_behind_the_sum_is_no_block() -> None:
    module = ToyViT(SIZE, depth=2)
    module.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)])
    model = wrap(shaken(module), input_size=SIZE)
    assert model.structure.blocks == ()
    assert "blocks.0" in names(model)  # tokens are features all the same
    assert "rollout" not in [c.card.name for c in METHODS.values() if not c.why_incompatible(model)]


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.layers = nn.ModuleList([MixerBlock(), MixerBlock()])
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(16), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x).mT).mT


def test_tokens_without_attention_are_features() -> None:
    model = wrap(shaken(Mixer()), input_size=SIZE)
    assert model.structure.stages[-2:] == (Layer("layers.0", "tokens"), Layer("layers.1", "tokens"))
    assert (model.structure.blocks, model.structure.prefix_tokens) == ((), 0)
    assert model.structure.cam_layer == Layer("layers.1", "tokens")
    x = image(*SIZE)
    check_cut(model, x, model.structure.cam_layer)
    maps = model.activations(x, model.structure.stages[-2:])
    assert {tuple(m.shape[-2:]) for m in maps.values()} == {(4, 6)}


class MergingMixer(nn.Module):
    """A pyramid of tokens without attention: mixers on ever coarser grids, cells merged by their mean."""

    def __init__(self, grids: list[tuple[int, int]], patch: int) -> None:
        super().__init__()
        self.grids = grids
        self.embed = nn.Conv2d(3, 16, patch, patch)
        self.mixers = nn.ModuleList([TokenMixer(math.prod(grid)) for grid in grids])
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for grid, mixer in zip(self.grids, self.mixers, strict=True):
            x = F.adaptive_avg_pool2d(x, grid)
            x = mixer(x.flatten(2).mT).mT.unflatten(2, grid)
        return self.head(x.mean((2, 3)))


class TokenMixer(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(16), nn.Linear(tokens, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(x).mT).mT


@pytest.mark.parametrize(
    ("size", "patch", "grids", "found"),
    [
        # down to a grid that is two cells high, and one that is two cells wide
        ((32, 48), 4, [(8, 12), (4, 6), (2, 3)], 3),
        ((48, 32), 4, [(12, 8), (6, 4), (3, 2)], 3),
        # a quarter of the sides at once
        ((32, 64), 4, [(8, 16), (2, 4)], 2),
        # one cell high: no map of where
        ((32, 64), 8, [(4, 8), (1, 2)], 1),
        # merged along one axis only, or unevenly: no square of cells became one
        ((32, 64), 4, [(8, 16), (8, 8)], 1),
        ((32, 64), 4, [(8, 16), (3, 5)], 1),
    ],
)
def test_tokens_of_a_pyramid_lie_on_coarser_grids(size, patch, grids, found) -> None:
    model = wrap(shaken(MergingMixer(grids, patch)), input_size=size)
    tokens = [layer for layer in model.structure.stages if layer.layout == "tokens"]
    first, *coarser = grids[:found]
    strides = [(size[0] // rows, size[1] // cols) for rows, cols in coarser]
    assert tokens == [
        Layer("mixers.0", "tokens"),
        *(Layer(f"mixers.{i}", "tokens", stride, prefix=0) for i, stride in enumerate(strides, 1)),
    ]
    assert model.structure.patch_size == (size[0] // first[0], size[1] // first[1])
    maps = model.activations(image(*size), tokens)
    assert [tuple(m.shape[-2:]) for m in maps.values()] == grids[:found]
    check_places(model, image(*size), tokens[:1], grids[:1])


# ── what the user says ────────────────────────────────────────────────────────────────────────────────────────────────
def test_named_layers_replace_those_found() -> None:
    module = shaken(ToyCNN())
    model = wrap(module, input_size=SIZE, layers=["stage1.1", Layer("stage2.0", "nchw")])
    assert model.structure.stages == (Layer("stage1.1", "nchw"), Layer("stage2.0", "nchw"))
    assert model.structure.cam_layer == Layer("stage2.0", "nchw")
    with pytest.raises(UnknownNameError, match="stage1"):
        wrap(module, input_size=SIZE, layers=["stage_1"])
    vit = wrap(shaken(ToyViT(SIZE)), input_size=SIZE, layers=["blocks.1", "blocks.2"])
    assert vit.structure.cam_layer == Layer("blocks.1", "tokens")  # the last one's patches do not reach the score


def test_layers_that_run_twice_cannot_be_named() -> None:
    relu = nn.ReLU()
    module = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu, nn.Flatten(), nn.Linear(4 * 144, 3))
    model = wrap(module, input_size=16)
    assert names(model) == ["0", "2"]
    with pytest.raises(LayoutError, match="'1' runs 2 times"):
        wrap(module, input_size=16, layers=["1"])


def test_dict_results_need_a_reader() -> None:
    class Both(ToyCNN):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": super().forward(x), "other": x}

    with pytest.raises(LayoutError, match=r"returns dict.*read="):
        wrap(Both(), input_size=SIZE)
    module = shaken(Both())
    model = wrap(module, input_size=SIZE, read=lambda raw, embedding: Output(logits=raw["scores"], embedding=embedding))
    x = image(*SIZE)
    check_run(model, x, module(x)["scores"], module.stage2(module.stage1(x)).mean((2, 3)))
    with pytest.raises(LayoutError, match="read= gave Tensor"):
        wrap(module, input_size=SIZE, read=lambda raw, embedding: raw["scores"])
    with pytest.raises(LayoutError, match="read= gave nothing"):
        wrap(module, input_size=SIZE, read=lambda raw, embedding: Output())


def test_head_and_output_can_be_told() -> None:
    module = shaken(ToyCNN())
    embedding = wrap(module, input_size=SIZE, output="embedding")
    assert Capability.LOGITS not in embedding.capabilities
    assert torch.equal(embedding.run(image(*SIZE)).embedding, module(image(*SIZE)))
    assert wrap(module, input_size=SIZE, head=module.head).structure.head == "head"
    with pytest.raises(UnknownNameError, match="did you mean 'head'"):
        wrap(module, input_size=SIZE, head="heads")
    with pytest.raises(UnknownNameError, match="logits"):
        wrap(module, input_size=SIZE, output="scores")


def test_class_names_from_list_dict_and_file(tmp_path) -> None:
    words = ["ant", "bee", "cat", "dog", "eel"]
    (tmp_path / "names.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    for given in (
        words,
        {str(i): w for i, w in reversed(list(enumerate(words)))},
        tmp_path / "names.txt",
        str(tmp_path / "names.txt"),
    ):
        assert wrap(ToyCNN(), input_size=SIZE, class_names=given).class_names == tuple(words)
    for wrong, message in [
        (words[:4], "4 class names for 5 classes"),
        ({0: "ant", 2: "cat"}, "lacks some of 0 … 2"),
        ({"ant": "0"}, "must map an index to a name"),
        (tmp_path / "none.txt", "cannot read class names"),
    ]:
        with pytest.raises(OptionError, match=message):
            wrap(ToyCNN(), input_size=SIZE, class_names=wrong)


def test_a_net_of_images_does_not_take_volumes() -> None:
    with pytest.raises(ModelError, match=r"volumes are \(batch, channels, depth, rows, cols\)"):
        wrap(ToyCNN(), input_size=(3, 8, 64, 64))


def test_given_structure_is_taken_as_it_is() -> None:
    structure = Structure("mine", head="head")
    assert wrap(ToyCNN(), structure=structure).structure == structure


# ── what can be opened up ─────────────────────────────────────────────────────────────────────────────────────────────
def test_wrappers_are_taken_off() -> None:
    module = ToyCNN()
    assert wrap(torch.compile(module), input_size=SIZE).module is module
    assert wrap(nn.DataParallel(module), input_size=SIZE).module is module
    assert wrap(torch.compile(nn.DataParallel(module)), input_size=SIZE).module is module


def test_what_hooks_cannot_reach_is_refused() -> None:
    part = nn.Sequential(nn.Conv2d(3, 4, 3), torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 2))))
    in_place = ToyCNN()
    in_place.compile()
    for module, message in [
        (torch.jit.trace(ToyCNN().eval(), torch.zeros(1, 3, 8, 8)), "TorchScript"),
        (part, "1 is compiled"),
        (in_place, "the module is compiled"),
        (nn.Sequential(nn.LazyConv2d(3, 3)), "0 has no weights yet"),
        ("resnet50", "use load_model"),
        (ToyCNN, "not type"),
    ]:
        with pytest.raises(ModelError, match=message):
            wrap(module, input_size=8)


def test_wrong_input_size_says_how_to_give_another() -> None:
    with pytest.raises(ModelError, match=r"does not run on 3×224×224 images .*input_size="):
        wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    gray = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    assert names(wrap(gray, input_size=(1, 8, 8))) == ["0"]
    assert names(wrap(gray, preprocess=lambda image: torch.zeros(1, 8, 8))) == ["0"]


# ── states of the module ──────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("make", [ToyCNN, lambda: ToyViT((32, 32))])
def test_module_is_left_as_it_was_also_in_training(make, cat) -> None:
    module = shaken(make()).train()
    module.head.requires_grad_(False)
    torch.manual_seed(5)
    expected, _ = torch.rand(1), torch.manual_seed(5)
    with left_alone(module):
        model = wrap(module, preprocess=Preprocess(size=(32, 32)))
        logits = model.predict(cat)
    assert torch.equal(torch.rand(1), expected)
    with torch.no_grad():
        assert torch.equal(logits, module.eval()(model.preprocess_images(cat)))


def test_failing_forward_leaves_no_trace() -> None:
    class Fails(ToyCNN):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError(f"no, {self.stage2(self.stage1(x)).shape}")

    module = Fails().train()
    with left_alone(module), pytest.raises(ModelError, match="no, torch"):
        wrap(module, input_size=SIZE)


def test_frozen_and_no_grad_and_half_precision() -> None:
    module = shaken(ToyViT(SIZE))
    reference = wrap(module, input_size=SIZE).structure
    module.requires_grad_(False)
    with torch.no_grad():
        assert wrap(module, input_size=SIZE).structure == reference
    with torch.inference_mode():
        assert wrap(module, input_size=SIZE).structure == reference
    assert wrap(module.bfloat16(), input_size=SIZE).structure == reference


def test_weights_made_in_inference_mode_are_refused_in_words() -> None:
    with torch.inference_mode():
        module = ToyCNN()
    with pytest.raises(ModelError, match=r"gradients do not pass weights .* outside of it"):
        wrap(module, input_size=SIZE)


def test_head_of_zeros_hides_nothing() -> None:
    module = ToyViT(SIZE)
    nn.init.zeros_(module.head.weight)
    assert wrap(module, input_size=SIZE).structure == wrap(ToyViT(SIZE), input_size=SIZE).structure


def test_a_trunk_without_gradients_has_features_but_no_layer_to_differentiate() -> None:
    class Probe(ToyCNN):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.stage2(self.stage1(x))
            return self.head(x.mean((2, 3)))

    model = wrap(Probe(), input_size=SIZE)
    assert model.structure.cam_layer is None
    assert Capability.GRADIENTS not in model.capabilities
    assert (model.structure.head, model.classes) == ("head", 5)


def test_nan_weights_are_reported_when_predicting(cat) -> None:
    module = ToyCNN()
    module.head.weight.data.fill_(math.nan)
    model = wrap(module, preprocess=Preprocess(size=(32, 32)))
    with pytest.raises(NonFiniteError, match="NaN"):
        model.predict(cat)


def test_class_target_needs_class_scores(cat) -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(TargetError, match="no logits"):
        wrap(trunk, preprocess=Preprocess(size=(32, 32))).predict(cat)


# ── against what the libraries' own adapters know ─────────────────────────────────────────────────────────────────────
def library_vit(name: str, **options) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, **options)


def torchvision_vit() -> nn.Module:
    vit = pytest.importorskip("torchvision").models.VisionTransformer
    return vit(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: library_vit("test_vit"), 160),
        (lambda: library_vit("test_vit2"), 160),
        (lambda: library_vit("test_vit", img_size=(96, 64), reg_tokens=4, global_pool="avg"), (96, 64)),
        (torchvision_vit, 32),
    ],
)
def test_transformers_of_libraries_are_found_as_their_adapters_know_them(make, size, monkeypatch) -> None:
    module = shaken(make())
    known = wrap(module).structure
    assert known.source != "module"
    monkeypatch.setattr("seewhy.models.infer.wrapping.source_of", lambda module: None)
    found = wrap(module, input_size=size).structure
    for part in ("blocks", "prefix_tokens", "class_token", "patch_size", "head", "cam_layer"):
        assert getattr(found, part) == getattr(known, part), part
    assert [s.name for s in found.stages] == [s.name for s in known.stages]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_cnns_of_libraries_are_found_as_their_adapters_know_them(name: str, monkeypatch) -> None:
    module = shaken(library_vit(name))
    known = wrap(module)
    monkeypatch.setattr("seewhy.models.infer.wrapping.source_of", lambda module: None)
    found = wrap(module, input_size=160)
    assert (found.structure.head, found.structure.source) == (known.structure.head, "module")
    x = image(96, 96)
    ours = list(found.activations(x, found.structure.stages).values())
    theirs = list(known.activations(x, known.structure.stages).values())
    same = [any(a.shape == b.shape and torch.equal(a, b) for a in ours) for b in theirs]
    assert same[-1] or torch.equal(ours[-1], known.activations(x, [known.structure.cam_layer]).popitem()[1])
    assert sum(same) >= len(theirs) - 1, same


class Normalize(nn.Module):
    def forward(self, x):
        return (x - 0.5) / 0.25


@pytest.mark.parametrize("name", ["scenes_cnn", "scenes_vit"])
def test_behind_a_normalization_the_stages_are_those_of_the_model_alone(name):
    inner = seewhy.load_model(name, device="cpu")
    model = seewhy.wrap(nn.Sequential(nn.Identity(), nn.Sequential(Normalize(), inner.module)), input_size=(3, 96, 96))
    assert [layer.name for layer in model.structure.stages] == [f"1.1.{s.name}" for s in inner.structure.stages]
    assert model.structure.cam_layer.name == f"1.1.{inner.structure.cam_layer.name}"
    assert len(model.structure.blocks) == len(inner.structure.blocks)
    assert (model.structure.head, model.structure.multi_label) == (f"1.1.{inner.structure.head}", True)
    x = torch.rand(2, 3, 96, 96)
    want = GradCAM(inner)(Normalize()(x), target=[1, 2])
    torch.testing.assert_close(GradCAM(model)(x, target=[1, 2]), want)


def test_what_stands_before_a_model_and_changes_the_size_is_no_normalization():
    inner = seewhy.load_model("scenes_cnn", device="cpu").module
    model = seewhy.wrap(nn.Sequential(nn.Upsample(scale_factor=2), inner), input_size=(3, 48, 48))
    assert model.structure.source == "module"


class FrozenByNoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = seewhy.load_model("scenes_cnn", device="cpu").module
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


def test_a_forward_that_cuts_the_gradient_is_told_so_and_what_to_do():
    model = seewhy.wrap(FrozenByNoGrad().eval(), input_size=(3, 96, 96))
    assert "freeze the backbone by requires_grad_(False)" in model.structure.note
    with pytest.raises(RequirementError, match="gradients, which its forward cuts off"):
        GradCAM(model)
