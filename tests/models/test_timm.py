"""Each kind of timm model, tiny and random, against what timm itself computes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from adapter_checks import (
    check_attention,
    check_cut,
    check_places,
    check_run,
    check_tail,
    image,
    left_alone,
    shaken,
)
from torch import Tensor, nn

from seewhy.checks.model_case import answer
from seewhy.core.cards import Capability
from seewhy.core.imagenet import imagenet_classes
from seewhy.errors import LayoutError, OptionError, UnknownNameError, WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.sources import timm as source
from seewhy.models.structure import Layer

timm = pytest.importorskip("timm")

VIT = "vit_tiny_patch16_224"
TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
WIDE = {**TINY, "img_size": (32, 48), "patch_size": 8}
NO_CLASS = {"class_token": False}

# name: architecture, options, prefix tokens, class token pools, input size
VITS: dict[str, tuple[str, dict[str, Any], int, bool, tuple[int, int]]] = {
    "class token": (VIT, WIDE, 1, True, (32, 48)),
    "registers": (VIT, {**WIDE, "reg_tokens": 4}, 5, True, (32, 48)),
    "mean, class token unused": (VIT, {**WIDE, "global_pool": "avg"}, 1, False, (32, 48)),
    "mean": (VIT, {**WIDE, **NO_CLASS, "global_pool": "avg"}, 0, False, (32, 48)),
    "attention pool": (VIT, {**WIDE, **NO_CLASS, "global_pool": "map"}, 0, False, (32, 48)),
    "no head": (VIT, {**WIDE, "num_classes": 0}, 1, True, (32, 48)),
    "DINOv2": ("vit_small_patch14_reg4_dinov2", {**TINY, "num_classes": 0, "img_size": (28, 42)}, 5, True, (28, 42)),
    "distilled": ("deit_tiny_distilled_patch16_224", WIDE, 2, True, (32, 48)),
    "EVA-02": ("eva02_tiny_patch14_224", {**TINY, "img_size": (28, 42)}, 1, False, (28, 42)),
    "DINOv3": ("vit_small_patch16_dinov3", {**TINY, "img_size": (32, 48)}, 5, False, (32, 48)),
    "BEiT": ("beit_base_patch16_224", {**TINY, "img_size": (32, 48)}, 1, False, (32, 48)),
    "relative positions": ("test_vit_relpos", {**WIDE}, 0, False, (32, 48)),
    "test_vit3": ("test_vit3", {"img_size": (48, 32)}, 1, False, (48, 32)),
    "other size": (VIT, {**WIDE, "dynamic_img_size": True}, 1, True, (56, 24)),
    "padded size": (VIT, {**WIDE, "dynamic_img_size": True, "dynamic_img_pad": True}, 1, True, (30, 45)),
}

CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 20), "num_classes": 5}
SWIN = {
    "img_size": (64, 96),
    "embed_dim": 8,
    "depths": (1, 2, 1),
    "num_heads": (1, 2, 2),
    "window_size": 4,
    "num_classes": 5,
}
FIVE = {"num_classes": 5}

# name: architecture, options, layouts of the stages, CAM layer, grids for 64×96
MAPS: dict[str, tuple[str, dict[str, Any], str, str, list[int]]] = {
    "ResNet": ("test_resnet", FIVE, "nchw", "layer4", [2, 4, 8, 16, 32]),
    "ResNet without head": ("test_resnet", {"num_classes": 0}, "nchw", "layer4", [2, 4, 8, 16, 32]),
    "ConvNeXt": ("convnext_atto", CONVNEXT, "nchw", "stages.3", [4, 8, 16, 32]),
    "EfficientNet": ("test_efficientnet", FIVE, "nchw", "bn2", [2, 4, 8, 16, 32]),
    "MobileNetV3": ("mobilenetv3_small_050", FIVE, "nchw", "blocks.5", [2, 4, 8, 16, 32]),
    "ResNetV2": ("resnetv2_18", FIVE, "nchw", "norm", [2, 4, 8, 16, 32]),
    "Swin": ("swin_tiny_patch4_window7_224", SWIN, "nhwc", "norm", [4, 8, 16]),
    "SwinV2": ("swinv2_tiny_window8_256", SWIN, "nhwc", "norm", [4, 8, 16]),
    "DenseNet": ("densenet121", {**FIVE, "block_config": (1, 1, 1, 1)}, "nchw", "features.norm5", [2, 4, 8, 16, 32]),
}


def make(name: str, options: dict[str, Any]) -> VisionModel:
    module = shaken(timm.create_model(name, pretrained=False, **options))
    with left_alone(module):
        return VisionModel(module, source.structure(module))


def plain(module: nn.Module, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Logits and embedding as timm gives them."""
    with torch.no_grad():
        features = module.forward_features(x)
        if hasattr(module, "head_dist"):
            return module(x), features[:, 0]
        return module(x) if module.num_classes else None, module.forward_head(features, pre_logits=True)


def slow_attention(module: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What goes into the dropout of timm's own unfused attention, and the gradient of a score at the last of these."""
    module, found = copy.deepcopy(module), []
    for block in module.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, args, __: found.append(args[0]))
    (gradient,) = torch.autograd.grad(module(x).square().sum(), found[-1])
    return [matrix.detach() for matrix in found], gradient


def check_attention_and_gradient(model: VisionModel, x: Tensor) -> None:
    """The matrices are those of the unfused path; so is the gradient at the one that is handed out."""
    matrices, expected = slow_attention(model.module, x)
    check_attention(model, x, matrices)
    found: dict[int, Tensor] = {}
    with left_alone(model.module), model.attention(found.__setitem__, x, blocks=[-1], differentiable=True):
        score = answer(model.run(x)).square().sum()
    (gradient,) = torch.autograd.grad(score, list(found.values()))
    torch.testing.assert_close(gradient, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("case", VITS)
def test_vit(case: str) -> None:
    name, options, prefix, pools, size = VITS[case]
    model, x = make(name, options), image(*size)
    told = model.structure
    patch = told.patch_size
    grid = (-(-size[0] // patch[0]), -(-size[1] // patch[1]))
    assert (told.prefix_tokens, told.class_token) == (prefix, pools)
    assert [b.name for b in told.blocks] == [s.name for s in told.stages]
    assert [b.name for b in told.blocks] == [f"blocks.{i}" for i in range(len(model.module.blocks))]
    assert told.cam_layer == Layer(told.blocks[-1].norm1, "tokens")
    assert model.tokens(x)[1].shape[1] == prefix + grid[0] * grid[1]
    check_run(model, x, *plain(model.module, x))
    check_places(model, x, told.stages[:1], [grid])
    check_attention_and_gradient(model, x)
    check_cut(model, x, told.cam_layer)
    for layer in (told.cam_layer, told.stages[0]):
        check_tail(model, x, layer)


def test_attention_is_softmax_of_queries_and_keys() -> None:
    model, x = make(VIT, {**WIDE, "qk_norm": True}), image(32, 48)
    found: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}
    for i, block in enumerate(model.module.blocks):
        block.norm1.register_forward_hook(lambda _, __, out, i=i: inputs.__setitem__(i, out))
    with torch.no_grad(), model.attention(found.__setitem__, x):
        model.run(x)
    for i, block in enumerate(model.module.blocks):
        attn, y = block.attn, inputs[i]
        q, k, _ = (y @ attn.qkv.weight.T + attn.qkv.bias).reshape(2, y.shape[1], 3, 3, 8).permute(2, 0, 3, 1, 4)
        scores = attn.q_norm(q) @ attn.k_norm(k).transpose(2, 3) / 8**0.5
        torch.testing.assert_close(found[i], scores.exp() / scores.exp().sum(-1, keepdim=True), atol=1e-6, rtol=1e-5)


def test_unfused_attention_is_read_too() -> None:
    model, x = make(VIT, WIDE), image(32, 48)
    for block in model.module.blocks:
        block.attn.fused_attn = False
    check_attention_and_gradient(model, x)


def test_distilled_scores_are_the_mean_of_both_heads() -> None:
    model, x = make("deit_tiny_distilled_patch16_224", WIDE), image(32, 48)
    with torch.no_grad():
        tokens = model.module.forward_features(x)
        mean = (model.module.head(tokens[:, 0]) + model.module.head_dist(tokens[:, 1])) / 2
        torch.testing.assert_close(model.run(x).logits, mean)
    assert "two classifiers" in model.structure.note


@pytest.mark.parametrize("block", ["ResPostBlock", "ParallelScalingBlock", "ParallelThingsBlock"])
def test_other_blocks_have_tokens_but_no_attention(block: str) -> None:
    kind = getattr(timm.models.vision_transformer, block)
    model, x = make(VIT, {**WIDE, "block_fn": kind}), image(32, 48)
    assert model.structure.blocks == ()
    assert model.structure.cam_layer == Layer("blocks.1", "tokens")
    assert Capability.ATTENTION not in model.capabilities
    check_run(model, x, *plain(model.module, x))
    check_cut(model, x, model.structure.cam_layer)  # all cells reach the class token, through the last block
    check_tail(model, x, model.structure.cam_layer)


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "cait_xxs24_224", "convit_tiny"])
def test_attention_that_is_not_over_tokens_is_not_offered(name: str) -> None:
    """XCiT attends over channels; in CaiT and ConViT the class token joins late, and the softmax is not the matrix."""
    size = {"img_size": 32, "depth": 3} if name.startswith("cait") else {"img_size": 32}
    model = make(name, {**size, **FIVE})
    assert model.structure.blocks == ()
    x = image(32, 32)
    with torch.no_grad():
        model.run(x)  # ConViT keeps its relative positions from the first forward on
    check_cut(model, x, model.structure.cam_layer)


@pytest.mark.parametrize("case", MAPS)
def test_maps(case: str) -> None:
    name, options, layout, cam, strides = MAPS[case]
    model, x = make(name, options), image(64, 96)
    told = model.structure
    assert {stage.layout for stage in told.stages} == {layout}
    assert told.cam_layer == Layer(cam, layout)
    assert told.blocks == ()
    assert not told.class_token
    check_run(model, x, *plain(model.module, x))
    check_places(model, x, told.stages, [(64 // s, 96 // s) for s in strides])
    check_cut(model, x, told.cam_layer)
    for layer in (told.cam_layer, told.stages[-2]):
        check_tail(model, x, layer)


def test_swin_maps_are_what_timm_says() -> None:
    model, x = make("swin_tiny_patch4_window7_224", SWIN), image(64, 96)
    maps = model.activations(x, model.structure.stages)
    with torch.no_grad():
        expected = model.module.forward_intermediates(x, output_fmt="NCHW", intermediates_only=True)
    for mine, theirs in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_classifier_that_pools_itself() -> None:
    """What enters its linear layer is the embedding, not the map that enters its pooling."""
    model = make(
        "sequencer2d_s", {"layers": (1, 1, 1, 1), "embed_dims": (8, 12, 12, 12), "hidden_sizes": (4, 6, 6, 6), **FIVE}
    )
    x = image(224, 224, batch=1)
    check_run(model, x, *plain(model.module, x))


def test_where_channels_and_cells_are_as_many_the_model_tells() -> None:
    """A 24×24 grid of 24 channels looks the same in both layouts."""
    model = make("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 96, "embed_dim": 24})
    assert model.structure.stages[0].layout == "nhwc"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("hiera_tiny_224", {}, "do not lie on a grid"),
        ("crossvit_tiny_240", {}, "not one module"),
        (VIT, {**WIDE, "global_pool": ""}, "no vector per image"),
        ("test_resnet", {"features_only": True}, "does not tell"),
    ],
)
def test_what_cannot_be_known_is_asked_for(name: str, options: dict[str, Any], says: str) -> None:
    module = timm.create_model(name, pretrained=False, **options)
    with left_alone(module), pytest.raises(LayoutError, match=f"{says}.*seewhy.wrap"):
        source.structure(module)


def test_structure_is_known_in_training_half_precision_and_frozen() -> None:
    module = timm.create_model("test_resnet", pretrained=False).to(torch.bfloat16).requires_grad_(False).train()
    with left_alone(module):
        assert source.structure(module).cam_layer == Layer("layer4", "nchw")


def test_recognizes() -> None:
    class Mine(timm.models.VisionTransformer):
        pass

    assert source.recognizes(Mine(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=1))
    assert not source.recognizes(nn.Linear(2, 2))


def test_load_brings_preprocessing_and_names() -> None:
    model = source.load("test_vit", pretrained=False)
    config = timm.data.resolve_data_config({}, model=model.module)
    assert (model.name, model.preprocess.size) == ("timm/test_vit", (160, 160))
    assert (model.preprocess.mean, model.preprocess.interpolation) == (config["mean"], config["interpolation"])
    assert model.class_names == imagenet_classes()
    assert not model.module.training
    assert source.load(VIT, pretrained=False, **WIDE).preprocess.size == (32, 48)
    assert source.load("test_vit", pretrained=False, num_classes=7).class_names is None
    narrow = source.load("test_maxvit", pretrained=False, img_size=(96, 64))  # keeps its input size nowhere
    assert narrow.preprocess.size == (96, 64)
    assert narrow.activations(image(96, 64), [narrow.structure.cam_layer])["norm"].shape[2:] == (3, 2)


def test_load_reads_weights(tmp_path: Any) -> None:
    theirs = shaken(timm.create_model("test_vit", pretrained=False))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = source.load("test_vit", pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")})
    x = image(160, 160, batch=1)
    with torch.no_grad():
        assert torch.equal(model.run(x).logits, theirs(x))


def test_names() -> None:
    assert {"test_vit", "test_vit.r160_in1k"} <= set(source.names("test_vit*"))
    assert "vit_small_patch16_224.dino" in source.names("*.dino")


def test_bad_names_and_options() -> None:
    with pytest.raises(UnknownNameError, match="'resnet50'"):
        source.load("resnet_50", pretrained=False)
    with pytest.raises(UnknownNameError, match=r"'vit_small_patch16_224\.dino'"):
        source.load("vit_small_patch16_224.dinoo")
    with pytest.raises(OptionError, match="foo"):
        source.load("test_vit", pretrained=False, foo=3)
    with pytest.raises(WeightsError, match="pretrained=False"):
        source.load("seresnet18")


def test_without_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"not reachable.*architecture='timm/test_vit'.*pretrained=False") as caught:
        source.load("test_vit", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_an_encoder_without_a_vector_has_the_mean_of_its_tokens_as_embedding() -> None:
    if not timm.is_model("qwen3_vit_88m_enc"):
        pytest.skip("this timm has no encoder of the image side of a language model")
    options = {"depth": 1, "embed_dim": 48, "num_heads": 2, "pretrained_cfg_overlay": {"input_size": (3, 64, 96)}}
    model = source.load("qwen3_vit_88m_enc", pretrained=False, **options)
    x = image(64, 96)
    torch.testing.assert_close(model.run(x).embedding, model.module(x).mean(1))
    assert "mean of what it gives" in model.structure.note
    assert len(model.structure.blocks) == 1
