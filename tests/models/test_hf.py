"""Each supported class of transformers, tiny and random, against what the library itself computes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_checks import check_all, check_attention, image, left_alone, shaken
from PIL import Image
from torch import Tensor, nn

from seewhy.checks.model_case import answer
from seewhy.core.cards import Capability
from seewhy.errors import LayoutError, ModelError, WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.sources import hf

T = pytest.importorskip("transformers")

VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
FIVE = {"num_labels": 5}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}
REGISTERS = {"num_register_tokens": 4}
INTERPOLATE = {"interpolate_pos_encoding": True}


def clip_config(**more: Any) -> Any:
    return T.CLIPConfig(vision_config={**VIT, "projection_dim": 12}, text_config=TEXT, projection_dim=12, **more)


def siglip_config(**more: Any) -> Any:
    return T.SiglipConfig(vision_config=VIT, text_config=TEXT, **more)


@dataclass(frozen=True)
class Case:
    """How to make it; the embedding as the library's parts give it; what the structure must say."""

    make: Callable[[], nn.Module]
    embedding: Callable[[nn.Module, Any, dict], Tensor]
    prefix: int = 0
    class_token: bool = False
    call: dict | None = None


def hidden(trunk: str) -> Callable[[nn.Module, Any, dict], Tensor]:
    return lambda m, x, call: m.get_submodule(trunk)(x, **call).last_hidden_state


def first(trunk: str) -> Callable:
    return lambda m, x, call: hidden(trunk)(m, x, call)[:, 0]


def first_and_mean(trunk: str, prefix: int) -> Callable:
    def embedding(m: nn.Module, x: Tensor, call: dict) -> Tensor:
        tokens = hidden(trunk)(m, x, call)
        return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], 1)

    return embedding


def pooled(trunk: str = "") -> Callable:
    return lambda m, x, call: m.get_submodule(trunk)(x, **call).pooler_output.flatten(1)


TRANSFORMERS = {
    "vit": Case(lambda: T.ViTForImageClassification(T.ViTConfig(**VIT, **FIVE)), first("vit"), 1, True, INTERPOLATE),
    "vit_pooler": Case(lambda: T.ViTModel(T.ViTConfig(**VIT)), pooled(), 1, True, INTERPOLATE),
    "vit_bare": Case(lambda: T.ViTModel(T.ViTConfig(**VIT), add_pooling_layer=False), first(""), 1, True, INTERPOLATE),
    "vit_headless": Case(
        lambda: T.ViTForImageClassification(T.ViTConfig(**VIT, num_labels=0)), first("vit"), 1, True, INTERPOLATE
    ),
    "deit": Case(
        lambda: T.DeiTForImageClassification(T.DeiTConfig(**VIT, **FIVE)), first("deit"), 2, True, INTERPOLATE
    ),
    "deit_teacher": Case(
        lambda: T.DeiTForImageClassificationWithTeacher(T.DeiTConfig(**VIT, **FIVE)),
        first("deit"),
        2,
        True,
        INTERPOLATE,
    ),
    "dinov2": Case(lambda: T.Dinov2Model(T.Dinov2Config(**VIT)), first(""), 1, True),
    "dinov2_classifier": Case(
        lambda: T.Dinov2ForImageClassification(T.Dinov2Config(**VIT, **FIVE)), first_and_mean("dinov2", 1), 1, True
    ),
    "registers": Case(
        lambda: T.Dinov2WithRegistersModel(T.Dinov2WithRegistersConfig(**VIT, **REGISTERS)), first(""), 5, True
    ),
    "registers_classifier": Case(
        lambda: T.Dinov2WithRegistersForImageClassification(T.Dinov2WithRegistersConfig(**VIT, **REGISTERS, **FIVE)),
        first_and_mean("dinov2_with_registers", 5),
        5,
        True,
    ),
    "clip_vision": Case(lambda: T.CLIPVisionModel(clip_config().vision_config), pooled(), 1, True, INTERPOLATE),
    "clip_projection": Case(
        lambda: T.CLIPVisionModelWithProjection(clip_config().vision_config),
        lambda m, x, call: m(x, **call).image_embeds,
        1,
        True,
        INTERPOLATE,
    ),
    "clip_classifier": Case(
        lambda: T.CLIPForImageClassification(clip_config(**FIVE)),
        lambda m, x, call: hidden("vision_model")(m, x, call)[:, 1:].mean(1),
        1,
        False,
        INTERPOLATE,
    ),
    "siglip": Case(lambda: T.SiglipVisionModel(siglip_config().vision_config), pooled(), 0, False, INTERPOLATE),
    "siglip_classifier": Case(
        lambda: T.SiglipForImageClassification(siglip_config(**FIVE)),
        lambda m, x, call: hidden("vision_model")(m, x, call).mean(1),
        0,
        False,
        INTERPOLATE,
    ),
}
if hasattr(T, "DINOv3ViTModel"):
    TRANSFORMERS["dinov3"] = Case(
        lambda: T.DINOv3ViTModel(T.DINOv3ViTConfig(**{**VIT, "num_attention_heads": 2}, **REGISTERS)),
        first(""),
        5,
        True,
    )
OTHERS = {
    "resnet": Case(lambda: T.ResNetForImageClassification(T.ResNetConfig(**RESNET, **FIVE)), pooled("resnet")),
    "resnet_bare": Case(lambda: T.ResNetModel(T.ResNetConfig(**RESNET)), pooled()),
    "convnext": Case(
        lambda: T.ConvNextForImageClassification(T.ConvNextConfig(**CONVNEXT, **FIVE)), pooled("convnext")
    ),
    "convnextv2_bare": Case(lambda: T.ConvNextV2Model(T.ConvNextV2Config(**CONVNEXT)), pooled()),
    "swin": Case(lambda: T.SwinForImageClassification(T.SwinConfig(**SWIN, **FIVE)), pooled("swin"), call=INTERPOLATE),
    "swin_positions": Case(
        lambda: T.SwinModel(T.SwinConfig(**SWIN, use_absolute_embeddings=True)), pooled(), call=INTERPOLATE
    ),
    "swinv2": Case(
        lambda: T.Swinv2ForImageClassification(T.Swinv2Config(**SWIN, **FIVE)), pooled("swinv2"), call=INTERPOLATE
    ),
}


def made(case: Case) -> VisionModel:
    module = shaken(case.make())
    assert hf.recognizes(module)
    return VisionModel(module, hf.structure(module))


@pytest.mark.parametrize("shape", [(32, 32), (32, 48), (48, 32)])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_vision_transformer(name: str, shape: tuple[int, int]) -> None:
    case = TRANSFORMERS[name]
    model = made(case)
    s = model.structure
    assert (s.prefix_tokens, s.class_token, s.patch_size) == (case.prefix, case.class_token, (8, 8))
    assert s.call == (case.call or {})
    assert s.cam_layer.name == s.blocks[-1].norm1
    assert {Capability.TOKENS, Capability.ATTENTION, Capability.LAST_BLOCK} <= model.capabilities
    check_all(
        model, image(*shape), _plain(model.module, case, native=shape == (32, 32)), [(shape[0] // 8, shape[1] // 8)] * 3
    )


@pytest.mark.parametrize("shape", [(64, 64), (64, 96)])
@pytest.mark.parametrize("name", OTHERS)
def test_pyramid(name: str, shape: tuple[int, int]) -> None:
    case = OTHERS[name]
    model = made(case)
    assert model.structure.call == (case.call or {})
    assert Capability.ATTENTION not in model.capabilities
    check_all(
        model,
        image(*shape),
        _plain(model.module, case, native=shape == (64, 64)),
        [(shape[0] // 4, shape[1] // 4), (shape[0] // 8, shape[1] // 8)],
    )


def _plain(module: nn.Module, case: Case, native: bool) -> Callable[[Tensor], tuple[Tensor | None, Tensor]]:
    call = {} if native else case.call or {}  # at its own size, the positions must be the model's own

    def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
        headed = module.config.num_labels and hasattr(module(x, **call), "logits")
        return module(x, **call).logits if headed else None, case.embedding(module, x, call)

    return run


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_is_that_of_the_eager_path(name: str) -> None:
    model, x = made(TRANSFORMERS[name]), image(32, 48)
    eager = copy.deepcopy(model.module)
    eager.set_attn_implementation("eager")
    slow = eager(x, output_attentions=True, **model.structure.call)
    check_attention(model, x, [a.detach() for a in slow.attentions])

    found: dict[int, Tensor] = {}
    with model.attention(found.__setitem__, x, differentiable=True):
        score = answer(model.run(x)).square().sum()
    (expected,) = torch.autograd.grad(
        answer(model.structure.read(slow, _head_input(eager, model, x))).square().sum(), slow.attentions[1]
    )
    (gradient,) = torch.autograd.grad(score, found[1])
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)


def _head_input(eager: nn.Module, model: VisionModel, x: Tensor) -> Tensor | None:
    return None if model.structure.head is None else VisionModel(eager, model.structure).run(x).embedding


def test_windowed_attention_is_not_offered() -> None:
    structure = made(OTHERS["swin"]).structure
    assert not structure.blocks


def test_full_clip_is_explained_by_its_image_side() -> None:
    full, x = shaken(T.CLIPModel(clip_config())), image(32, 48)
    assert hf.recognizes(full)
    with pytest.raises(LayoutError, match="tower"):
        hf.structure(full)
    with left_alone(full), torch.no_grad():
        tower = hf.tower(full)
        embedding = VisionModel(tower, hf.structure(tower)).run(x).embedding
        pooled = full.vision_model(x, **INTERPOLATE).pooler_output
        assert torch.equal(embedding, full.visual_projection(pooled))
    assert all(p.device.type == "cpu" for p in tower.parameters())
    assert not tower.training


def test_full_siglip_is_explained_by_its_image_side() -> None:
    full, x = shaken(T.SiglipModel(siglip_config())), image(32, 32)
    tower = hf.tower(full)
    with torch.no_grad():
        embedding = VisionModel(tower, hf.structure(tower)).run(x).embedding
        assert torch.equal(embedding, full.vision_model(x).pooler_output)
    assert hf.tower(tower) is tower


def test_siglip_without_its_pooling_head_gives_the_mean_token() -> None:
    config = siglip_config().vision_config
    config.vision_use_head = False
    model, x = VisionModel(module := shaken(T.SiglipVisionModel(config)), hf.structure(module)), image(32, 32)
    with torch.no_grad():
        assert torch.equal(model.run(x).embedding, module(x).last_hidden_state.mean(1))


def test_what_is_not_a_known_vision_model() -> None:
    assert not hf.recognizes(nn.Linear(2, 2))
    assert not hf.recognizes(T.CLIPTextModel(clip_config().text_config))
    for module in (
        T.Dinov2Backbone(T.Dinov2Config(**VIT)),
        T.ViTMAEModel(T.ViTMAEConfig(**VIT)),  # shuffles its patches
        T.ViTForMaskedImageModeling(T.ViTConfig(**VIT)),
    ):
        with pytest.raises(LayoutError, match="not among the models"):
            hf.structure(module)


def test_a_native_size_that_is_not_square_is_not_interpolated() -> None:
    module = shaken(T.ViTModel(T.ViTConfig(**{**VIT, "image_size": (32, 48)})))
    model, x = VisionModel(module, hf.structure(module)), image(32, 48)
    with torch.no_grad():
        assert torch.equal(model.run(x).embedding, module(x).pooler_output)
    assert model.activations(x, [model.layer()])["layers.2"].shape[-2:] == (4, 6)


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip_vision"])
def test_pixels_beyond_the_last_whole_patch_are_dropped(name: str) -> None:
    model = made(TRANSFORMERS[name])
    maps = model.activations(image(37, 47), model.structure.stages[:1])
    assert next(iter(maps.values())).shape[-2:] == (4, 5)


def test_an_odd_size_is_padded_by_swin() -> None:
    model = made(OTHERS["swin"])
    maps = model.activations(image(70, 90), model.structure.stages)
    assert [m.shape[-2:] for m in maps.values()] == [(18, 23), (9, 12)]


def test_a_small_image_does_not_shrink_the_windows_of_swin_for_good() -> None:
    model = made(OTHERS["swin"])
    x = image(64, 64)
    before = model.forward_checked(x)
    with pytest.raises((ModelError, RuntimeError)):
        model.forward_checked(x[:, :, :12, :12])
    torch.testing.assert_close(model.forward_checked(x).logits, before.logits)


def test_the_last_patch_tokens_of_a_dinov2_classifier_still_count() -> None:
    model = made(TRANSFORMERS["dinov2_classifier"])
    assert model.cam_layer(model.structure.blocks[-1].name).name == model.structure.blocks[-1].name
    with pytest.raises(LayoutError, match="after the last attention"):
        made(TRANSFORMERS["dinov2"]).cam_layer(model.structure.blocks[-1].name.removeprefix("dinov2."))


# ── from disk ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
}


def saved(module: nn.Module, folder: Path, processor: dict | None = PROCESSOR) -> str:
    module.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def same(found: Tensor, expected: Tensor) -> None:
    """Up to rounding: weights that were mapped from a file lie differently in memory, which kernels can tell."""
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


def test_round_trip_through_the_hub_format(tmp_path: Path, cat: Image.Image) -> None:
    names = {i: f"kind {i}" for i in range(5)}
    module = shaken(T.ViTForImageClassification(T.ViTConfig(**VIT, id2label=names)))
    model = hf.load(saved(module, tmp_path))
    files = {p.name for p in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert model.class_names == tuple(names.values())
    assert (model.preprocess.size, model.preprocess.mean) == ((32, 32), (0.4, 0.5, 0.6))
    with torch.no_grad():
        same(model.predict(cat), module(model.preprocess_images(cat)).logits)
    assert model.structure.source == "hf"
    assert not model.module.training


@pytest.mark.parametrize(
    "make",
    [
        lambda: T.SwinModel(T.SwinConfig(**SWIN)),
        lambda: T.ResNetModel(T.ResNetConfig(**RESNET)),
        lambda: T.Dinov2Model(T.Dinov2Config(**VIT)),
        lambda: T.CLIPVisionModel(clip_config().vision_config),
        lambda: T.CLIPVisionModelWithProjection(clip_config().vision_config),
        lambda: T.SiglipVisionModel(siglip_config().vision_config),
    ],
)
def test_the_saved_class_comes_back(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    module = shaken(make())
    model, x = hf.load(saved(module, tmp_path)), image(64, 64)
    assert type(model.module) is type(module)
    with torch.no_grad():
        same(model.run(x).embedding, VisionModel(module, hf.structure(module)).run(x).embedding)


def other_clip_config() -> Any:
    """The size of the projection stands in the outer configuration only, as in older files."""
    return T.CLIPConfig(vision_config=VIT, text_config=TEXT, projection_dim=12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: T.CLIPModel(clip_config()),
        lambda: T.CLIPModel(other_clip_config()),
        lambda: T.SiglipModel(siglip_config()),
    ],
)
def test_of_a_model_of_images_and_texts_the_image_side_is_loaded(
    make: Callable, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    full = shaken(make())
    model, x = hf.load(saved(full, tmp_path)), image(32, 32)
    tower = hf.tower(full)
    with torch.no_grad():
        same(model.run(x).embedding, VisionModel(tower, hf.structure(tower)).run(x).embedding)
    assert not any("text" in name for name, _ in model.module.named_parameters())
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_a_pooler_without_weights_is_left_out(tmp_path: Path) -> None:
    """As in facebook/dino-vits16: the library would add a random pooler and warn."""
    module = shaken(T.ViTModel(T.ViTConfig(**VIT), add_pooling_layer=False))
    model, x = hf.load(saved(module, tmp_path)), image(32, 32)
    with torch.no_grad():
        same(model.run(x).embedding, module(x).last_hidden_state[:, 0])


def test_weights_that_lack_the_head_are_refused(tmp_path: Path) -> None:
    folder = saved(T.ViTModel(T.ViTConfig(**VIT), add_pooling_layer=False), tmp_path)
    edit_config(tmp_path, architectures=["ViTForImageClassification"])
    with pytest.raises(WeightsError, match="no weights for classifier"):
        hf.load(folder)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = saved(T.ViTModel(T.ViTConfig(**VIT)), tmp_path)
    edit_config(tmp_path, hidden_size=48)
    with pytest.raises(WeightsError, match="cannot load"):
        hf.load(folder)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = saved(T.ViTModel(T.ViTConfig(**VIT)), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": _Trap(str(tmp_path / "trapped"))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="more than tensors"):
        hf.load(folder)
    assert not (tmp_path / "trapped").exists()


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("part", [0.5, 0])
def test_a_truncated_file_is_refused(part: float, tmp_path: Path) -> None:
    folder = saved(T.ViTModel(T.ViTConfig(**VIT)), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(part * weights.stat().st_size)])
    with pytest.raises(WeightsError, match="cannot load"):
        hf.load(folder)


def test_plain_pickled_tensors_load(tmp_path: Path) -> None:
    module = shaken(T.ViTModel(T.ViTConfig(**VIT)))
    folder = saved(module, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    x = image(32, 32)
    with torch.no_grad():
        same(hf.load(folder).run(x).embedding, module(x).pooler_output)


def test_without_weights_and_without_preprocessing(tmp_path: Path) -> None:
    T.CLIPConfig(vision_config=VIT, text_config=TEXT).save_pretrained(tmp_path)
    model = hf.load(str(tmp_path), pretrained=False)
    assert (model.preprocess.size, model.preprocess.mean[0]) == ((32, 32), pytest.approx(0.48145466))
    assert type(model.module) is T.CLIPVisionModelWithProjection
    T.ViTConfig(**VIT, architectures=["ViTForImageClassification"]).save_pretrained(tmp_path)
    model = hf.load(str(tmp_path), pretrained=False)
    assert (model.preprocess.size, model.preprocess.mean[0]) == ((32, 32), 0.5)
    assert model.class_names is None  # LABEL_0, LABEL_1


def test_half_precision_checkpoints_load_as_float(tmp_path: Path) -> None:
    folder = saved(T.ViTModel(T.ViTConfig(**VIT)).half(), tmp_path)
    assert hf.load(folder).dtype == torch.float32
    assert hf.load(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "says"),
    [("nobody/nothing", "check the name and the network"), ("./nowhere", "no folder"), ("a/b/c", "no folder")],
)
def test_what_is_not_there(name: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        hf.load(name, local_files_only=True)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_an_unknown_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        hf.load(str(tmp_path))
    T.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(LayoutError, match=r"'bert'.*wrap"):
        hf.load(str(tmp_path))


def test_names() -> None:
    assert "facebook/dinov2-small" in hf.names()
    assert hf.names("*swin*") == ["microsoft/swin-tiny-patch4-window7-224", "microsoft/swinv2-tiny-patch4-window8-256"]
