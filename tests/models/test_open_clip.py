"""The image towers of open_clip, tiny and random, against the library's own outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_checks import check_all, check_attention, image, left_alone, shaken
from PIL import Image
from torch import Tensor, nn

from seewhy.checks.model_case import answer
from seewhy.errors import LayoutError, OptionError, UnknownNameError, WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.sources import open_clip as towers

open_clip = pytest.importorskip("open_clip")
transformer = pytest.importorskip("open_clip.transformer")

VIT = {"image_size": (32, 48), "patch_size": 8, "width": 24, "layers": 3, "heads": 3, "mlp_ratio": 2, "output_dim": 12}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "class_token": {},
    "square": {"image_size": 32},
    "averaged": {"pool_type": "avg"},
    "norm_after_pool": {"final_ln_after_pool": True},
    "pooled_by_attention": {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
    "query_norm": {"qk_norm": True},  # attention of open_clip's own, with the fused kernel inside
    "layer_scale_no_pre_norm": {"ls_init_value": 0.1, "no_ln_pre": True},
    "with_tokens": {"output_tokens": True},
}
READS_CLASS_TOKEN = {"class_token", "square", "norm_after_pool", "query_norm", "layer_scale_no_pre_norm", "with_tokens"}


def vision_transformer(name: str) -> VisionModel:
    module = shaken(transformer.VisionTransformer(**{**VIT, **TRANSFORMERS[name]}))
    assert towers.recognizes(module)
    return VisionModel(module, towers.structure(module))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_vision_transformer(name: str) -> None:
    model = vision_transformer(name)
    s, cols = model.structure, 4 if name == "square" else 6
    assert (s.prefix_tokens, s.patch_size, s.class_token) == (1, (8, 8), name in READS_CLASS_TOKEN)
    assert s.cam_layer.name == "transformer.resblocks.2.ln_1"

    def plain(x: Tensor) -> tuple[None, Tensor]:
        raw = model.module(x)
        return None, raw[0] if isinstance(raw, tuple) else raw

    check_all(model, image(32, 8 * cols), plain, [(4, cols)] * 3)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_is_that_of_the_written_out_path(name: str) -> None:
    model, x = vision_transformer(name), image(32, 32 if name == "square" else 48)
    check_attention(model, x, [written_out(model, x, i) for i in range(3)])


def written_out(model: VisionModel, x: Tensor, i: int) -> Tensor:
    """softmax(q kᵀ / √d) of block `i`, from what its norm hands over."""
    block, inputs = model.module.transformer.resblocks[i], []
    handle = block.ln_1.register_forward_hook(lambda _, __, output: inputs.append(output))
    with torch.no_grad():
        model.run(x)
    handle.remove()
    attn = block.attn
    if hasattr(attn, "ln_q"):
        q, k, _ = nn.functional.linear(inputs[0], attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        q, k = (t.unflatten(-1, (3, 8)).transpose(1, 2) for t in (q, k))
        return (attn.ln_q(q) @ attn.ln_k(k).mT * 8**-0.5).softmax(-1).detach()
    return attn(inputs[0], inputs[0], inputs[0], need_weights=True, average_attn_weights=False)[1].detach()


def test_attention_can_be_differentiated() -> None:
    """Scaling one head's matrix moves the output as its gradient says."""
    model, x = vision_transformer("class_token"), image(32, 48)
    found: dict[int, Tensor] = {}
    with model.attention(found.__setitem__, x, blocks=[2], differentiable=True):
        score = answer(model.run(x)).square().sum()
    (gradient,) = torch.autograd.grad(score, found[2])
    predicted = (gradient[:, 1] * found[2][:, 1]).sum()

    attn, step = model.module.transformer.resblocks[2].attn, 1e-3
    scale = torch.ones(24)
    scale[8:16] += step
    with torch.no_grad():
        weight = attn.out_proj.weight.clone()
        attn.out_proj.weight.mul_(scale)  # the columns that read the second head
        moved = answer(model.run(x)).square().sum()
        attn.out_proj.weight.copy_(weight)
    torch.testing.assert_close((moved - score.detach()) / step, predicted.detach(), rtol=0.02, atol=1e-2)


@pytest.mark.parametrize("side", [64, 96])
def test_modified_resnet(side: int) -> None:
    module = shaken(open_clip.modified_resnet.ModifiedResNet([1, 1, 1, 2], 12, heads=2, image_size=side, width=4))
    assert towers.recognizes(module)
    model = VisionModel(module, towers.structure(module))
    assert not model.structure.blocks
    check_all(model, image(side, side), lambda x: (None, module(x)), [(side // s, side // s) for s in (4, 8, 16, 32)])


@pytest.mark.parametrize(
    ("name", "pool", "blocks", "class_token"),
    [("test_vit", "", 6, True), ("test_vit3", "map", 9, False), ("test_convnext", "avg", 0, False)],
)
def test_a_tower_made_by_timm(name: str, pool: str, blocks: int, class_token: bool) -> None:
    pytest.importorskip("timm")
    module = shaken(open_clip.timm_model.TimmModel(name, embed_dim=12, pool=pool, proj="linear"))
    assert towers.recognizes(module)
    model = VisionModel(module, towers.structure(module))
    x = image(160, 160)
    with torch.no_grad(), left_alone(module):
        assert torch.equal(model.run(x).embedding, module(x))
        tail = model.tail(x, model.structure.cam_layer)
        torch.testing.assert_close(tail(tail.value).embedding, module(x), atol=1e-5, rtol=1e-5)
    assert (len(model.structure.blocks), model.structure.class_token) == (blocks, class_token)
    assert "logits" not in model.capabilities
    if blocks:
        found: dict[int, Tensor] = {}
        with torch.no_grad(), model.attention(found.__setitem__, x):
            model.run(x)
        assert all(torch.allclose(m.sum(-1), torch.ones(())) for m in found.values())
        assert list(found) == list(range(blocks))


# ── whole models, and from disk ───────────────────────────────────────────────────────────────────────────────────────

WHOLE = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 6, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
}
RECIPE = {
    "size": 32,
    "mode": "RGB",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


@pytest.fixture
def whole() -> nn.Module:
    return shaken(open_clip.CLIP(**WHOLE))


@pytest.fixture
def folder(whole: nn.Module, tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": WHOLE, "preprocess_cfg": RECIPE}))
    save_file(whole.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_a_whole_model_is_explained_by_its_image_side(whole: nn.Module) -> None:
    assert towers.recognizes(whole)
    with pytest.raises(LayoutError, match="tower"):
        towers.structure(whole)
    module, x = towers.tower(whole), image(32, 32)
    with torch.no_grad():
        assert torch.equal(VisionModel(module, towers.structure(module)).run(x).embedding, whole.encode_image(x))
    assert towers.tower(module) is module
    assert not towers.recognizes(open_clip.transformer.TextTransformer(width=16, heads=2, layers=1))
    assert not towers.recognizes(nn.Linear(2, 2))


def test_round_trip_through_open_clips_own_format(whole: nn.Module, folder: Path, cat: Image.Image) -> None:
    model = towers.load(f"local-dir:{folder}")
    assert model.preprocess.mean == (0.4, 0.5, 0.6)
    with torch.no_grad():
        torch.testing.assert_close(
            model.embed(cat), whole.encode_image(model.preprocess_images(cat)), atol=1e-6, rtol=1e-6
        )
    assert not any(module.training for module in model.module.modules())


@pytest.mark.parametrize("mode", ["squash", "shortest"])
@pytest.mark.parametrize("size", [32, (32, 48)])
def test_preprocessing_is_open_clips(folder: Path, cat: Image.Image, mode: str, size: Any) -> None:
    """On the image as it stands, so that only the geometry and the normalization can differ."""
    model = towers.load(
        f"local-dir:{folder}",
        pretrained=False,
        force_image_size=size,
        force_preprocess_cfg={"resize_mode": mode, "interpolation": "bicubic"},
    )
    recipe = open_clip.transform.PreprocessCfg(**model.module.preprocess_cfg)
    theirs = open_clip.transform.image_transform_v2(recipe, is_train=False)(cat)
    torch.testing.assert_close(model.preprocess_images(cat)[0], theirs, atol=1e-5, rtol=1e-5)


def test_weights_that_do_not_fit_or_are_not_there(folder: Path) -> None:
    config = {**WHOLE, "embed_dim": 16}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(WeightsError, match="cannot load"):
        towers.load(f"local-dir:{folder}")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot load"):
        towers.load(f"local-dir:{folder}")
    with pytest.raises(WeightsError, match="cannot load"):
        towers.load("local-dir:/nowhere")


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="'ViT-B-32'"):
        towers.load("ViT-B-33:laion2b_s34b_b79k")
    with pytest.raises(UnknownNameError, match="'laion2b_s34b_b79k'"):
        towers.load("ViT-B/32:laion2b_s34b_b79x")
    with pytest.raises(OptionError, match="pretrained=False"):
        towers.load("ViT-B-32")


def test_names() -> None:
    assert "ViT-B-32:laion2b_s34b_b79k" in towers.names("ViT-B-32:*")
    assert all(name.startswith("RN50") for name in towers.names("RN50*"))


@pytest.mark.parametrize(("name", "quick"), [("ViT-B-32:openai", True), ("ViT-B-32:laion2b_s34b_b79k", False)])
def test_the_activation_is_the_one_that_the_weights_were_trained_with(
    name: str, quick: bool, whole: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip itself warns of OpenAI's QuickGELU, and then computes with another activation."""
    asked: dict[str, Any] = {}

    def create(model: str, weights: str, **options: Any) -> nn.Module:
        asked.update(options)
        return whole

    monkeypatch.setattr(open_clip, "create_model", create)
    towers.load(name)
    assert asked.get("force_quick_gelu", False) is quick
    assert asked["weights_only"] is True


@pytest.mark.slow
def test_a_named_model_with_random_weights() -> None:
    model = towers.load("ViT-S-32", pretrained=False)
    assert model.preprocess.size == (224, 224)
    assert len(model.structure.blocks) == 12
