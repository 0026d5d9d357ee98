"""Names lead to models, near misses to suggestions, and missing libraries to a pip command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import seewhy
from seewhy.core.preprocess import Preprocess
from seewhy.errors import MissingExtraError, ModelError, NonFiniteError, OptionError, UnknownNameError
from seewhy.models.load import list_models, load_model, source_of


def test_each_source_opens_a_model_of_its_own() -> None:
    pytest.importorskip("timm")
    for name in ("timm/test_vit", "torchvision/squeezenet1_1"):
        model = load_model(name, pretrained=False, device="cpu")
        assert model.name == name
        assert not model.module.training
        assert source_of(model.module).structure(model.module) == model.structure
    assert load_model("timm/test_vit", pretrained=False, num_classes=3).classes == 3


def test_a_folder_in_the_hubs_format(tmp_path: Path, cat) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    module = transformers.ViTForImageClassification(config).eval()
    module.save_pretrained(tmp_path / "vit")
    model = load_model(tmp_path / "vit", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(model.predict(cat), module(model.preprocess_images(cat)).logits)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json.*save_pretrained"):
        load_model(tmp_path / "empty")


def test_wrap_knows_the_libraries_modules_and_their_preprocessing() -> None:
    timm = pytest.importorskip("timm")
    module = timm.create_model("vit_tiny_patch16_224")
    model = seewhy.wrap(module)
    assert (model.structure.source, model.preprocess.mean) == ("timm", (0.5, 0.5, 0.5))
    seen = seewhy.wrap(module, layers=["blocks.3", "blocks.5"], preprocess=Preprocess(size=(224, 224)))
    assert [layer.name for layer in seen.structure.stages] == ["blocks.3", "blocks.5"]
    assert (seen.structure.source, seen.structure.prefix_tokens, seen.structure.blocks) == (
        "module",
        model.structure.prefix_tokens,
        model.structure.blocks,
    )


def test_wrap_takes_the_image_side_of_a_model_of_images_and_texts() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 20},
        projection_dim=8,
        vision_config={**small, "image_size": 32, "patch_size": 8},
    )
    model = seewhy.wrap(transformers.CLIPModel(config).eval())
    assert (model.structure.source, model.preprocess.size) == ("hf", (32, 32))
    assert model.run(torch.randn(1, 3, 32, 32)).embedding.shape == (1, 8)


def test_list_models_by_pattern() -> None:
    pytest.importorskip("timm")
    assert "efficientnet_lite0" in list_models()
    assert {"torchvision/resnet50", "timm/resnet50"} <= set(list_models("*/resnet50"))
    assert all(name.startswith("timm/test_") for name in list_models("timm/test_*"))
    assert list_models("nothing*") == []


@pytest.mark.parametrize(
    ("wrong", "suggested"),
    [
        ("resnet50", ["'torchvision/resnet50'", "'timm/resnet50'"]),
        ("efficientnet-lite0", ["'efficientnet_lite0'"]),
        ("timm/vit_smal_patch16_224", ["vit_small_patch16_224"]),
        ("torchvision/resnet500", ["resnet50"]),
    ],
)
def test_near_misses_are_suggested(wrong: str, suggested: list[str]) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UnknownNameError) as caught:
        load_model(wrong)
    assert all(word in str(caught.value) for word in suggested)
    assert "\n" not in str(caught.value)


def test_a_name_like_no_other_leads_to_the_list() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'qqqq'.*seewhy models"):
        load_model("qqqq")


def test_missing_library_gives_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, extra in [
        ("timm", "timm"),
        ("torchvision", "torchvision"),
        ("transformers", "hf"),
        ("open_clip", "open_clip"),
        ("efficientnet_lite_pytorch", "efficientnet"),
    ]:
        monkeypatch.setitem(sys.modules, package, None)
        name = {"efficientnet": "efficientnet_lite0", "open_clip": "open_clip/RN50:openai"}.get(extra, f"{extra}/x")
        with pytest.raises(MissingExtraError, match=rf"pip install .*\[{extra}\]"):
            load_model(name)
    assert "efficientnet_lite0" in list_models()  # it is on offer; what is missing has no names to list
    with pytest.raises(UnknownNameError, match="unknown model 'resnet50'"):
        load_model("resnet50")


def test_devices() -> None:
    for wrong in ("gpu", "cuda:99"):
        with pytest.raises(OptionError, match=rf"there is no device '{wrong}'"):
            load_model("efficientnet_lite0", device=wrong)
    model = load_model("efficientnet_lite0", pretrained=False)
    assert model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_architecture_belongs_to_files() -> None:
    with pytest.raises(OptionError, match="goes with a checkpoint file"):
        load_model("efficientnet_lite0", architecture="timm/test_vit")


def test_half_precision_and_nan_weights(cat) -> None:
    model = load_model("efficientnet_lite0", device="cpu")
    expected = model.predict(cat)
    model.module.to(torch.bfloat16)
    assert model.predict(cat).dtype == torch.bfloat16
    assert model.predict(cat).argmax() in expected[0].topk(3).indices
    model.module.float()._fc.weight.data[3, 3] = torch.nan
    with pytest.raises(NonFiniteError, match="check the weights"):
        model.predict(cat)


def test_importing_imports_no_library() -> None:
    code = (
        "import sys, seewhy, seewhy.models.load, seewhy.models.infer.wrapping; "
        "bad = {'timm', 'torchvision', 'transformers', 'open_clip'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
