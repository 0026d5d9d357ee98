"""Weights come off the disk safely, out of whatever training wrapped round them, and fit exactly or not at all."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models.adapter_checks import image, shaken
from safetensors.torch import save_file
from torch import Tensor, nn

from seewhy.core.cards import Capability
from seewhy.core.preprocess import Preprocess
from seewhy.errors import UnknownNameError, WeightsError
from seewhy.models.checkpoints import Checkpoint, load_into, misfit, read_state, recognize, unwrap
from seewhy.models.load import load_model

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    module = torchvision.models.resnet18(num_classes=7)
    return shaken(module)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return shaken(timm.create_model("vit_tiny_patch16_224", num_classes=0))


def trunk(module: nn.Module) -> State:
    return {k: v for k, v in module.state_dict().items() if not k.startswith("fc.")}


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def heads(*names: str) -> State:
    return {name: torch.randn(3, 3) for name in names}


def bolts(module: nn.Module) -> dict:
    """lightning-bolts: a Lightning checkpoint; the encoder has a classifier that nobody trained."""
    state = {**under("encoder.", module.state_dict()), **heads("projection.model.0.weight")}
    return {"epoch": 100, "global_step": 5, "state_dict": state, "optimizer_states": [], "lr_schedulers": []}


def vissl(module: nn.Module) -> dict:
    model = {"trunk": under("_feature_blocks.", trunk(module)), "heads": heads("0.clf.0.weight")}
    return {"phase_idx": 3, "classy_state_dict": {"base_model": {"model": model, "meta": {}}}}


def swav(module: nn.Module) -> dict:
    return under("module.", {**trunk(module), **heads("projection_head.0.weight", "prototypes.weight")})


def moco(module: nn.Module) -> dict:
    both = {**under("module.encoder_q.", module.state_dict()), **under("module.encoder_k.", trunk(module))}
    return {"epoch": 200, "arch": "resnet18", "state_dict": {**both, **heads("module.queue")}}


def moco_v3(module: nn.Module) -> dict:
    both = {**under("module.base_encoder.", trunk(module)), **under("module.momentum_encoder.", trunk(module))}
    return {"state_dict": {**both, **heads("module.base_encoder.fc.0.weight", "module.predictor.0.weight")}}


@pytest.mark.parametrize(
    ("layout", "name"), [(bolts, "simclr"), (vissl, "vissl"), (swav, "swav"), (moco, "moco"), (moco_v3, "moco")]
)
def test_self_supervised_resnet_is_its_trunk(layout: Callable, name: str, resnet, tmp_path: Path) -> None:
    torch.save(layout(resnet), tmp_path / "checkpoint.pth.tar")
    assert unwrap(read_state(tmp_path / "checkpoint.pth.tar")).layout == name
    model = load_model(tmp_path / "checkpoint.pth.tar", device="cpu")
    assert Capability.LOGITS not in model.capabilities
    assert (model.preprocess, model.class_names, model.name) == (Preprocess(), None, "checkpoint.pth.tar")
    x = image(64, 64)
    resnet_trunk = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
    assert torch.equal(model.run(x).embedding, resnet_trunk(x))


def test_resnet50_of_self_supervision_takes_pictures_as_it_was_trained(tmp_path: Path) -> None:
    """torchvision's newest weights for this architecture take them larger."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.resnet50().state_dict().items() if not k.startswith("fc.")}
    small_on_disk = {k: torch.zeros(()).expand(shape) for k, shape in shapes.items()}
    torch.save(under("module.", {**small_on_disk, **heads("prototypes.weight")}), tmp_path / "swav.pth.tar")
    assert load_model(tmp_path / "swav.pth.tar", device="cpu").preprocess == Preprocess()
    assert load_model("torchvision/resnet50", pretrained=False, device="cpu").preprocess != Preprocess()


def dino(state: State) -> dict:
    return state


def dino_full(state: State) -> dict:
    student = under("module.backbone.", {k: torch.zeros_like(v) for k, v in state.items()})
    teacher = {**under("backbone.", state), **heads("head.mlp.0.weight", "head.last_layer.weight_v")}
    return {"student": student, "teacher": teacher, "epoch": 100, "args": argparse.Namespace(arch="vit_tiny", lr=0.1)}


@pytest.mark.parametrize("layout", [dino, dino_full])
def test_dino_vit_is_the_teacher(layout: Callable, vit, tmp_path: Path) -> None:
    """DINO's own names of parameters are written out here: timm's must be the same."""
    per_block = [
        f"{part}.{kind}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ]
    dinos = [
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        *(f"blocks.{i}.{name}" for i in range(12) for name in per_block),
        "norm.weight",
        "norm.bias",
    ]
    torch.save(layout({name: vit.state_dict()[name] for name in dinos}), tmp_path / "dino.pth")
    model = load_model(tmp_path / "dino.pth")
    x = image(224, 224, batch=1)
    assert torch.equal(model.run(x).embedding, vit(x))
    assert {Capability.CLASS_TOKEN, Capability.ATTENTION} <= model.capabilities
    assert Capability.LOGITS not in model.capabilities


def small(dim: int, patch: int, **more: Tensor) -> Checkpoint:
    """The least that a ViT of 12 blocks is recognized by."""
    with torch.device("meta"):
        blocks = {f"blocks.{i}.attn.qkv.weight": torch.zeros(3 * dim, dim) for i in range(12)}
        return Checkpoint({"patch_embed.proj.weight": torch.zeros(dim, 3, patch, patch), **blocks, **more}, "plain")


def names(checkpoint: Checkpoint, filename: str = "") -> list[str]:
    return [each.name.removeprefix("timm/") for each in recognize(checkpoint, filename)]


def test_vits_that_differ_in_their_preprocessing_only_are_all_named() -> None:
    """DeiT (ImageNet's mean) and ViT (0.5) have the same weights, with any classes; so has DINO's backbone."""
    head = {"head.weight": torch.zeros(5, 1)}
    assert names(small(192, 16, **head)) == ["deit_tiny_patch16_224", "vit_tiny_patch16_224"]
    assert names(small(384, 16, **head)) == ["deit_small_patch16_224", "vit_small_patch16_224"]
    assert names(small(768, 16, **head)) == ["deit_base_patch16_224", "vit_base_patch16_224"]
    assert names(small(384, 16)) == ["vit_small_patch16_224.dino", "vit_small_patch16_224"]
    assert names(small(384, 8, **head)) == ["vit_small_patch8_224"]  # timm knows one recipe
    assert names(small(384, 8)) == ["vit_small_patch8_224.dino"]
    assert names(small(100, 16)) == []


def test_what_stands_beside_or_over_the_weights_settles_it() -> None:
    assert names(small(384, 16), "my_dino.pth") == ["vit_small_patch16_224.dino"]
    assert names(small(384, 16), "dino_deitsmall16_pretrain.pth") == ["vit_small_patch16_224.dino"]
    assert names(small(192, 16, **{"head.weight": torch.zeros(1000, 1)}), "deit_tiny_patch16_224-a1311bcf.pth") == [
        "deit_tiny_patch16_224.fb_in1k"
    ]
    assert names(small(192, 16), "resnet50-0676ba61.pth") != ["torchvision/resnet50"]  # the name of another file
    trained = Checkpoint(
        small(192, 16).state, "plain", about={"arch": "vit_tiny_patch16_224", "timm": True, "args": {}}
    )
    assert names(trained) == ["vit_tiny_patch16_224"]
    registers = {"blocks.0.ls1.gamma": torch.zeros(1), "register_tokens": torch.zeros(1, 4, 384)}
    assert names(small(384, 14, **registers)) == ["vit_small_patch14_reg4_dinov2"]


def test_dino_pictures_are_normalized_as_imagenet() -> None:
    model = load_model("timm/vit_small_patch16_224.dino", pretrained=False)
    assert (model.preprocess.mean, model.preprocess.std) == (Preprocess().mean, Preprocess().std)


def test_resnets_of_two_libraries_have_the_same_weights() -> None:
    with torch.device("meta"):
        for name in ("resnet18", "resnet34", "resnet50", "resnet101"):
            plain = Checkpoint(getattr(torchvision.models, name)().state_dict(), "plain")
            assert names(plain) == [f"torchvision/{name}", name]
            published = torchvision.models.get_model_weights(name).IMAGENET1K_V1
            (one,) = recognize(plain, published.url.rpartition("/")[2])
            assert (one.name, one.options) == (f"torchvision/{name}", {"weights": "IMAGENET1K_V1"})
            assert names(Checkpoint(plain.state, "plain", about={"arch": name})) == [f"torchvision/{name}"]
            assert names(Checkpoint(plain.state, "moco")) == [f"torchvision/{name}"]
        assert names(Checkpoint(torchvision.models.wide_resnet50_2().state_dict(), "plain")) == []


@pytest.mark.parametrize(
    "wrapping",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"model_state_dict": s},
        lambda s: under("_orig_mod.", s),
        lambda s: under("module._orig_mod.", s),
        lambda s: {"state_dict": under("model.", s)},
    ],
)
def test_classifiers_out_of_training_loops(wrapping: Callable, resnet, tmp_path: Path) -> None:
    torch.save(wrapping(resnet.state_dict()), tmp_path / "best.pt")
    model = load_model(tmp_path / "best.pt", architecture="torchvision/resnet18")
    x = image(64, 64)
    assert torch.equal(model.run(x).logits, resnet(x))
    assert (model.classes, model.class_names) == (7, None)


def test_safetensors_and_all_of_imagenets_classes(tmp_path: Path) -> None:
    module = shaken(timm.create_model("test_vit"))
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    model = load_model(tmp_path / "weights.safetensors", architecture="timm/test_vit.r160_in1k")
    x = image(160, 160)
    assert torch.equal(model.run(x).logits, module(x))
    assert model.class_names[281] == "tabby"


def test_efficientnet_lite_from_a_file(tmp_path: Path) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    module = package.EfficientNet.from_name("efficientnet-lite0", num_classes=3).eval()
    torch.save(module.state_dict(), tmp_path / "lite.pth")
    model = load_model(tmp_path / "lite.pth", architecture="efficientnet_lite0")
    x = image(64, 64)
    assert torch.equal(model.run(x).logits, module(x))
    assert (model.classes, model.class_names) == (3, None)


def test_old_files_lack_batch_norms_counters() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {k: v + 1 for k, v in module.state_dict().items() if "num_batches" not in k}
    load_into(module, state)
    assert torch.equal(module[1].weight, state["1.weight"])


# ── what cannot be used ───────────────────────────────────────────────────────────────────────────────────────────────
class Unpickled:
    ran = False

    def __reduce__(self) -> tuple:
        return exec, ("from models.test_checkpoints import Unpickled; Unpickled.ran = True",)


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "config": Unpickled()}, tmp_path / "evil.pt")
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"config": Unpickled()}))
    for name in ("evil.pt", "evil.bin"):
        with pytest.raises(WeightsError, match=f"{name}.*(could run code|damaged)"):
            load_model(tmp_path / name, architecture="timm/test_vit")
    assert not Unpickled.ran


def test_files_that_are_no_checkpoints(tmp_path: Path, resnet) -> None:
    torch.save(resnet.state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    files = {
        "empty.pt": b"",
        "hello.pt": b"hello\n",
        "text.pth": b"<html>404</html>",
        "cut.pt": whole[: len(whole) // 2],
        "empty.safetensors": b"",
        "text.safetensors": b"<html>404</html>" * 9,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name} is damaged or not a checkpoint .*download it again") as caught:
            load_model(tmp_path / name, architecture="torchvision/resnet18")
        assert "\n" not in str(caught.value)
        assert "(101)" not in str(caught.value)  # the bare key of a KeyError
    for content, message in [
        (torch.ones(3), "holds Tensor"),
        ({}, "holds dict"),
        ({"epoch": 3}, "no weights found under epoch"),
    ]:
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(WeightsError, match=message):
            load_model(tmp_path / "other.pt", architecture="torchvision/resnet18")
    with pytest.raises(WeightsError, match="there is no file"):
        load_model(tmp_path / "none.pth")


def test_architecture_must_be_known_or_said(tmp_path: Path) -> None:
    torch.save({"some.weight": torch.ones(2, 2)}, tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match=r"cannot infer the architecture of .*; pass architecture="):
        load_model(tmp_path / "mine.pth")
    with pytest.raises(UnknownNameError, match=r"unknown architecture 'resnet18'.*'torchvision/resnet18'"):
        load_model(tmp_path / "mine.pth", architecture="resnet18")


def test_weights_of_another_architecture_are_refused(resnet, tmp_path: Path) -> None:
    torch.save(resnet.state_dict(), tmp_path / "r18.pth")
    with pytest.raises(WeightsError, match=r"do not fit ResNet: \d+ missing: layer1.2.conv1.weight, .* …; name"):
        load_model(tmp_path / "r18.pth", architecture="torchvision/resnet34")
    state = {**resnet.state_dict(), "extra.bias": torch.ones(1), "conv1.weight": torch.ones(64, 3, 3, 3)}
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError) as caught:
        load_model(tmp_path / "odd.pth", architecture="torchvision/resnet18")
    assert str(caught.value).startswith(
        "the weights do not fit ResNet: 1 unexpected: extra.bias, "
        "1 of another shape: conv1.weight (64×3×3×3 instead of 64×3×7×7)"
    )


def test_a_misfit_changes_nothing() -> None:
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    with pytest.raises(WeightsError, match="1 missing: bias"):
        load_into(module, {"weight": torch.zeros(2, 2)})
    assert torch.equal(module.weight, before)
    assert misfit(module.state_dict(), module.state_dict()) == ""
