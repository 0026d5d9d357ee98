"""Each kind of torchvision classifier, small and random, against what torchvision itself computes."""

from __future__ import annotations

from pathlib import Path
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

import seewhy
from seewhy.checks.model_case import answer
from seewhy.core.cards import Capability
from seewhy.core.class_names import is_imagenet
from seewhy.core.imagenet import imagenet_classes
from seewhy.core.preprocess import Preprocess
from seewhy.errors import LayoutError, OptionError, UnknownNameError, WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.models.sources import torchvision as source
from seewhy.models.structure import Layer

models = pytest.importorskip("torchvision").models
tiny_vit = models.vision_transformer.VisionTransformer
tiny_swin = models.swin_transformer.SwinTransformer

VIT = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 3,
    "num_heads": 3,
    "hidden_dim": 24,
    "mlp_dim": 32,
    "num_classes": 5,
}
SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 8,
    "depths": [1, 2, 1],
    "num_heads": [1, 2, 2],
    "window_size": [4, 4],
    "num_classes": 5,
}


def resnet(**options: Any) -> nn.Module:
    return models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5, **options)


def bottlenecks() -> nn.Module:
    return models.resnet.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5, width_per_group=16)


def convnext() -> nn.Module:
    setting = [models.convnext.CNBlockConfig(d, o, 1) for d, o in ((8, 12), (12, 16), (16, 20), (20, None))]
    return models.convnext.ConvNeXt(setting, num_classes=5)


def without_fc() -> nn.Module:
    module = resnet()
    module.fc = nn.Identity()
    return module


def named(name: str, **options: Any) -> Any:
    return lambda: models.get_model(name, weights=None, num_classes=5, **options)


# name: how to make it; layout; CAM layer; strides of the stages
MAPS: dict[str, tuple[Any, str, str, list[int]]] = {
    "ResNet": (resnet, "nchw", "layer4", [2, 4, 8, 16, 32]),
    "ResNet, bottlenecks": (bottlenecks, "nchw", "layer4", [2, 4, 8, 16, 32]),
    "ResNet without classifier": (without_fc, "nchw", "layer4", [2, 4, 8, 16, 32]),
    "ConvNeXt": (convnext, "nchw", "features.7", [4, 8, 16, 32]),
    "EfficientNet": (named("efficientnet_b0"), "nchw", "features.8", [2, 4, 8, 16, 32]),
    "MobileNetV2": (named("mobilenet_v2"), "nchw", "features.18", [2, 4, 8, 16, 32]),
    "MNASNet": (named("mnasnet0_5"), "nchw", "layers.16", [2, 4, 8, 16, 32]),
    "ShuffleNetV2": (named("shufflenet_v2_x0_5"), "nchw", "conv5", [2, 4, 8, 16, 32]),
    "RegNet": (named("regnet_x_400mf"), "nchw", "trunk_output.block4", [2, 4, 8, 16, 32]),
    "Swin": (lambda: tiny_swin(**SWIN), "nhwc", "norm", [4, 8, 16]),
    "SwinV2": (
        lambda: tiny_swin(
            **SWIN,
            block=models.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=models.swin_transformer.PatchMergingV2,
        ),
        "nhwc",
        "norm",
        [4, 8, 16],
    ),
}


def make(build: Any) -> VisionModel:
    module = shaken(build())
    with left_alone(module):
        return VisionModel(module, source.structure(module))


def plain(module: nn.Module, x: Tensor) -> tuple[Tensor | None, Tensor]:
    """Logits, and what enters the last linear layer (or what comes out, if there is none)."""
    last = [part for part in list(module.children())[-1].modules() if isinstance(part, nn.Linear)]
    entered: list[Tensor] = []
    handle = last[-1].register_forward_pre_hook(lambda _, args: entered.append(args[0])) if last else None
    try:
        with torch.no_grad():
            logits = module(x)
    finally:
        if handle:
            handle.remove()
    return (logits, entered[0]) if last else (None, logits)


@pytest.mark.parametrize("case", MAPS)
def test_maps(case: str) -> None:
    build, layout, cam, strides = MAPS[case]
    model, x = make(build), image(64, 96)
    told = model.structure
    assert {stage.layout for stage in told.stages} == {layout}
    assert told.cam_layer == Layer(cam, layout)
    assert told.blocks == ()
    check_run(model, x, *plain(model.module, x))
    check_places(model, x, told.stages, [(64 // s, 96 // s) for s in strides])
    check_cut(model, x, told.cam_layer)
    for layer in (told.cam_layer, told.stages[-2]):
        check_tail(model, x, layer)


def test_the_head_reads_the_deepest_map() -> None:
    """The embedding is the mean of the CAM layer over the grid: nothing lies between them."""
    x = image(64, 96)
    for build in (resnet, MAPS["EfficientNet"][0], MAPS["Swin"][0], MAPS["RegNet"][0]):
        model = make(build)
        (deepest,) = model.activations(x, [model.structure.cam_layer]).values()
        with torch.no_grad():
            torch.testing.assert_close(model.run(x).embedding, deepest.mean((2, 3)), atol=1e-5, rtol=1e-5)


def test_an_in_place_relu_does_not_reach_the_map() -> None:
    """DenseNet writes its last ReLU over the output of the last norm."""
    model, x = make(lambda: models.DenseNet(8, (1, 1, 1, 1), 16, num_classes=5)), image(64, 96)
    module, told = model.module, model.structure
    assert told.cam_layer == Layer("features.norm5", "nchw")
    check_places(model, x, told.stages, [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)])
    with torch.no_grad():
        expected = module.features(x).requires_grad_()
    (stored,) = model.activations(x, [told.cam_layer]).values()
    assert torch.equal(stored, expected)
    assert stored.min() < 0
    logits = module.classifier(expected.relu().mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), expected)
    with torch.no_grad(), left_alone(module), model.leaf_at(told.cam_layer) as leaf:
        output = model.run(x)
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(torch.autograd.grad(output.logits[:, 1].sum(), leaf)[0], gradient)
    for layer in (told.cam_layer, told.stages[-2]):
        check_tail(model, x, layer)


def test_squeezenet_embeds_the_mean_of_what_it_classifies() -> None:
    model, x = make(named("squeezenet1_1")), image(64, 96)
    with torch.no_grad(), left_alone(model.module):
        output = model.run(x)
        assert torch.equal(output.logits, model.module(x))
        torch.testing.assert_close(output.embedding, model.module.features(x).mean((2, 3)))
    assert model.classes == 5


@pytest.mark.parametrize("representation", [None, 10])
def test_vit(representation: int | None) -> None:
    model, x = make(lambda: tiny_vit(**VIT, representation_size=representation)), image(32, 32)
    told = model.structure
    assert (told.prefix_tokens, told.class_token, told.patch_size) == (1, True, (8, 8))
    assert told.cam_layer == Layer("encoder.layers.encoder_layer_2.ln_1", "tokens")
    assert model.tokens(x)[1].shape == (2, 17, 24)
    check_run(model, x, *plain(model.module, x))
    check_places(model, x, told.stages[:1], [(4, 4)])
    check_cut(model, x, told.cam_layer)
    for layer in (told.cam_layer, told.stages[0]):
        check_tail(model, x, layer)


def literal_attention(module: nn.Module, x: Tensor) -> list[Tensor]:
    """softmax(q kᵀ / √d) from each layer's own weights, in float64."""
    inputs: list[Tensor] = []
    layers = list(module.encoder.layers)
    handles = [layer.ln_1.register_forward_hook(lambda _, __, out: inputs.append(out.double())) for layer in layers]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    matrices = []
    for layer, y in zip(layers, inputs, strict=True):
        attention = layer.self_attention
        q, k, _ = (y @ attention.in_proj_weight.double().T + attention.in_proj_bias.double()).chunk(3, -1)
        q, k = (t.reshape(len(y), -1, attention.num_heads, 8).transpose(1, 2) for t in (q, k))
        weights = (q @ k.transpose(2, 3) / 8**0.5).exp()
        matrices.append((weights / weights.sum(-1, keepdim=True)).detach().float())
    return matrices


def test_attention_of_vit() -> None:
    model, x = make(lambda: tiny_vit(**VIT)), image(32, 32)
    check_attention(model, x, literal_attention(model.module, x))
    found: list[Tensor] = []
    with model.attention(lambda _, matrix: found.append(matrix), x, blocks=[-1], differentiable=True):
        score = answer(model.run(x)).square().sum()
    (gradient,) = torch.autograd.grad(score, found)
    # a literal layer: the score as a function of the matrix, by central differences in a random direction
    tail, last = model.tail(x, Layer(model.structure.blocks[-1].norm1, "tokens")), model.module.encoder.layers[-1]
    direction = torch.randn_like(gradient)

    def at(step: float) -> Tensor:
        def attend(query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
            mha = last.self_attention
            value = (query @ mha.in_proj_weight.T + mha.in_proj_bias).chunk(3, -1)[2]
            mixed = (found[0].detach() + step * direction) @ value.reshape(2, 17, 3, 8).transpose(1, 2)
            return mha.out_proj(mixed.transpose(1, 2).flatten(2)), None

        last.self_attention.forward = attend
        try:
            with torch.no_grad():
                return answer(tail(tail.value)).square().sum()
        finally:
            del last.self_attention.forward

    slope = (at(0.01) - at(-0.01)) / 0.02
    torch.testing.assert_close((gradient * direction).sum(), slope, atol=1e-3 * float(gradient.norm()), rtol=1e-2)


@pytest.mark.parametrize("name", ["fcn_resnet50", "r3d_18"])
def test_other_tasks_are_told_to_wrap(name: str) -> None:
    options = {"weights": None} if name == "r3d_18" else {"weights": None, "weights_backbone": None}
    with torch.device("meta"), pytest.raises(LayoutError, match=r"not an image classifier.*seewhy\.wrap"):
        source.structure(models.get_model(name, **options))


def test_recognizes() -> None:
    class Mine(models.ResNet):
        pass

    assert source.recognizes(Mine(models.resnet.BasicBlock, [1, 1, 1, 1]))
    assert not source.recognizes(nn.Conv2d(3, 3, 1))


def test_names_are_the_classifiers_and_detectors() -> None:
    assert {"resnet50", "vit_b_16", "swin_t", "fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn"} <= set(source.names())
    assert source.names("resnet1*") == ["resnet101", "resnet152", "resnet18"]
    assert not set(source.names()) & {"fcn_resnet50", "r3d_18"}


def test_load_brings_preprocessing_and_names() -> None:
    model = source.load("efficientnet_b1", pretrained=False)
    recipe = models.EfficientNet_B1_Weights.DEFAULT.transforms()
    wanted = Preprocess(
        size=(240, 240), resize=255, mean=tuple(recipe.mean), std=tuple(recipe.std), interpolation="bilinear"
    )
    assert model.preprocess == wanted
    assert (recipe.crop_size, recipe.resize_size) == ([240], [255])
    assert model.class_names[281] == "tabby"
    assert not model.module.training
    assert source.load("resnet18", pretrained=False, num_classes=3).class_names is None
    assert source.load("shufflenet_v2_x0_5", pretrained=False, weights="IMAGENET1K_V1").preprocess.resize == 256


def test_load_reads_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From torch's cache, as after a download; what is no plain state dict is refused before it is unpickled."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / Path(models.SqueezeNet1_1_Weights.DEFAULT.url).name
    file.parent.mkdir(parents=True)
    theirs = shaken(models.squeezenet1_1())
    torch.save(theirs.state_dict(), file)
    x = image(64, 64)
    with torch.no_grad():
        assert torch.equal(source.load("squeezenet1_1").run(x).logits, theirs(x))
    torch.save(theirs, file)
    with pytest.raises(WeightsError, match=r"squeezenet1_1.*cannot be read"):
        source.load("squeezenet1_1")


def test_without_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    says = r"no route.*architecture='torchvision/resnet18'.*pretrained=False"
    with pytest.raises(WeightsError, match=says):
        source.load("resnet18")


def test_bad_names_and_options() -> None:
    with pytest.raises(UnknownNameError, match="'resnet50'"):
        source.load("resnet_50")
    with pytest.raises(UnknownNameError, match="'IMAGENET1K_V2'"):
        source.load("resnet50", weights="IMAGENET_V2")
    with pytest.raises(OptionError, match="foo"):
        source.load("resnet18", pretrained=False, foo=3)


def test_four_of_imagenet_s_names_are_spelled_otherwise_here():
    theirs = models.get_model_weights("resnet18").DEFAULT.meta["categories"]
    different = {i: name for i, (name, own) in enumerate(zip(theirs, imagenet_classes(), strict=True)) if name != own}
    assert different == {134: "crane bird", 517: "crane", 638: "maillot", 639: "maillot tank suit"}
    assert is_imagenet(theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_classes_of_a_network_with_a_quantized_head_are_classes() -> None:
    whole = source.load("resnet18", pretrained=False, num_classes=7).module
    quantized = torch.ao.quantization.quantize_dynamic(whole, {torch.nn.Linear}, dtype=torch.qint8)
    model = seewhy.wrap(quantized)
    x = torch.rand(1, 3, 64, 64)
    assert Capability.LOGITS in model.capabilities
    assert torch.equal(model.run(x).logits, quantized(x))
