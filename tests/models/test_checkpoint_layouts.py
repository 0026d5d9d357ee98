"""Checkpoints as people have them: whatever training wrapped round the weights, the scores are those of the module."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from models.adapter_checks import image, shaken
from torch import Tensor, nn

import seewhy
from seewhy.core.cards import Capability
from seewhy.errors import OptionError, WeightsError
from seewhy.models.heads import OnTokens, attach_head
from seewhy.models.load import load_model

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

State = dict[str, Tensor]
TINY = "timm/test_vit"


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    """A fine-tuned ViT: five classes."""
    return shaken(timm.create_model("test_vit", num_classes=5))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return shaken(torchvision.models.resnet18(num_classes=7))


def logits(path: Path, x: Tensor, **options: object) -> Tensor:
    return load_model(path, device="cpu", **options).run(x).logits


# ── prefixes ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "wrapping",
    [
        lambda s: {"state_dict": under("net.backbone.", s), "hyper_parameters": {"lr": 1e-3}},
        lambda s: {"state_dict": under("model._orig_mod.", s) | {"criterion.weight": torch.ones(5)}},
        lambda s: under("module._fsdp_wrapped_module.", s),
        lambda s: {"n_averaged": torch.tensor(3), **under("module.", s)},
        lambda s: {"state_dict": {k: torch.zeros_like(v) for k, v in s.items()}, "state_dict_ema": s},
        lambda s: {"state_dict": under("model.", {k: v + 1 for k, v in s.items()}) | under("ema_model.", s)},
        lambda s: {"model": s, "args": argparse.Namespace(model="test_vit", lr=1.0)},
    ],
    ids=["lightning of any depth", "lightning compiled", "fsdp", "AveragedModel", "timm ema", "ema beside", "args"],
)
def test_prefixes_of_training_programs(wrapping: Callable, vit, tmp_path: Path) -> None:
    torch.save(wrapping(vit.state_dict()), tmp_path / "last.ckpt")
    x = image(160, 160)
    assert torch.equal(logits(tmp_path / "last.ckpt", x, architecture=TINY), vit(x))


def test_two_models_that_fit_are_asked_about(vit, tmp_path: Path) -> None:
    torch.save(under("first.", vit.state_dict()) | under("second.", vit.state_dict()), tmp_path / "two.pth")
    with pytest.raises(WeightsError, match=r"several models in the file \(first\.\*, second\.\*\); save"):
        load_model(tmp_path / "two.pth", architecture=TINY)


class Options(dict):
    """What Lightning keeps of a module's arguments, in a class of its own."""


def test_records_of_training_programs_are_not_built(vit, tmp_path: Path, monkeypatch) -> None:
    for cls, module in ((Options, "pytorch_lightning.utilities"), (Options, "omegaconf.dictconfig")):
        monkeypatch.setattr(cls, "__module__", module)
    import sys
    import types

    for name in ("omegaconf", "omegaconf.dictconfig"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["omegaconf.dictconfig"].Options = Options
    content = {"state_dict": under("model.", vit.state_dict()), "cfg": Options, "path": Path("a"), "x": np.float64(2)}
    torch.save(content, tmp_path / "lit.ckpt")
    monkeypatch.undo()
    x = image(160, 160)
    assert torch.equal(logits(tmp_path / "lit.ckpt", x, architecture=TINY), vit(x))


# ── classifiers ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def dino() -> nn.Module:
    return shaken(timm.create_model("vit_small_patch16_224.dino", num_classes=5))


@pytest.mark.parametrize("layout", [pytest.param("head", marks=pytest.mark.slow), "lightning"])
def test_dino_with_a_classifier(layout: str, dino, tmp_path: Path) -> None:
    """What the preset cdam_multi asks for, and the file of CDAM's authors (`model.*` and `linear.*`)."""
    state = dino.state_dict()
    if layout == "lightning":
        trunk = {k: v for k, v in state.items() if not k.startswith("head.")}
        linear = {k.replace("head.", "linear."): v for k, v in state.items() if k.startswith("head.")}
        state = {"state_dict": under("model.", trunk) | linear, "pytorch-lightning_version": "2.0"}
    torch.save(state, tmp_path / "dino.ckpt")
    model = load_model(tmp_path / "dino.ckpt", architecture="timm/vit_small_patch16_224.dino", device="cpu")
    x = image(224, 224, batch=1)
    assert torch.equal(model.run(x).logits, dino(x))
    assert model.structure.class_token
    assert ("the classifier is linear of the file" in model.structure.note) is (layout == "lightning")
    assert not seewhy.methods.CDAM(model)(x, target=3).isnan().any()


def test_bolts_swav_is_its_trunk(resnet, tmp_path: Path) -> None:
    heads = {"projection_head.0.weight": torch.ones(3, 3), "prototypes.weight": torch.ones(3, 3)}
    trunk = {k: v for k, v in resnet.state_dict().items() if not k.startswith("fc.")}
    torch.save({"state_dict": under("model.", trunk | heads)}, tmp_path / "swav.ckpt")
    model = load_model(tmp_path / "swav.ckpt", device="cpu")
    x = image(64, 64)
    assert torch.equal(model.run(x).embedding, nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())(x))
    assert Capability.LOGITS not in model.capabilities


@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_the_projection_of_swav_is_the_embedding_where_it_is_asked_for(prefix, resnet, tmp_path: Path) -> None:
    projection = nn.Sequential(nn.Linear(512, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4)).eval()
    shaken(projection)
    trunk = {k: v for k, v in resnet.state_dict().items() if not k.startswith("fc.")}
    heads = under("projection_head.", projection.state_dict()) | {"prototypes.weight": torch.ones(3, 4)}
    torch.save({"state_dict": under(prefix, trunk | heads)}, tmp_path / "swav.ckpt")
    model = load_model(tmp_path / "swav.ckpt", projection=True, device="cpu")
    x = image(64, 64)
    pooled = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())(x)
    want = projection(pooled) / projection(pooled).norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.run(x).embedding, want)
    assert "512 → 4, of unit length" in model.structure.note
    plain = load_model(tmp_path / "swav.ckpt", device="cpu")
    lafam, relax = seewhy.methods.LaFAM, seewhy.methods.RELAX
    assert torch.equal(lafam(model)(x), lafam(plain)(x))
    assert not torch.equal(relax(model, n_masks=8)(x), relax(plain, n_masks=8)(x))


def test_a_projection_that_there_is_not_is_refused(resnet, tmp_path: Path) -> None:
    torch.save(resnet.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match=r"plain\.pth has no projection \(projection_head"):
        load_model(tmp_path / "plain.pth", architecture="torchvision/resnet18", projection=True, device="cpu")
    with pytest.raises(OptionError, match="projection goes with a checkpoint file"):
        load_model("scenes_cnn", projection=True)


def test_heads_of_transfer_learning(tmp_path: Path) -> None:
    module = torchvision.models.resnet18()
    module.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 4))
    module.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    shaken(module)
    torch.save(module.state_dict(), tmp_path / "xray.pth")
    model = load_model(tmp_path / "xray.pth", architecture="torchvision/resnet18", device="cpu")
    x = image(64, 64)[:, :1]
    assert torch.equal(model.run(x).logits, module(x))
    assert model.preprocess.channels == 1
    module.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 4))
    torch.save(module.state_dict(), tmp_path / "mlp.pth")
    with pytest.raises(WeightsError, match=r"head fc has 2 linear layers \(fc\.0, fc\.2\).*seewhy\.wrap"):
        load_model(tmp_path / "mlp.pth", architecture="torchvision/resnet18")


def test_what_is_left_out_is_said(vit, tmp_path: Path) -> None:
    torch.save({"state_dict": under("net.", vit.state_dict()) | {"proxies.weight": torch.ones(2)}}, tmp_path / "a.ckpt")
    model = load_model(tmp_path / "a.ckpt", architecture=TINY, device="cpu")
    assert "left out of the file: proxies" in model.structure.note


# ── sizes and channels ────────────────────────────────────────────────────────────────────────────────────────────────
def test_another_image_size(tmp_path: Path) -> None:
    """Weights of 224 in an architecture for 160: it is made for 224; where a size is said, the table is resized."""
    module = shaken(timm.create_model("test_vit", num_classes=5, img_size=224))
    torch.save(module.state_dict(), tmp_path / "large.pth")
    model = load_model(tmp_path / "large.pth", architecture=TINY, device="cpu")
    x = image(224, 224)
    assert (model.preprocess.size, model.structure.note) == ((224, 224), "")
    assert torch.equal(model.run(x).logits, module(x))
    model = load_model(tmp_path / "large.pth", architecture=TINY, preprocess={"size": 160}, device="cpu")
    assert model.preprocess.size == (160, 160)
    assert "table of positions was resized from 14×14 to 10×10" in model.structure.note
    from timm.layers import resample_abs_pos_embed

    expected = resample_abs_pos_embed(module.pos_embed, [10, 10], num_prefix_tokens=1)
    torch.testing.assert_close(model.module.pos_embed, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_timm_with_other_channels(name: str, tmp_path: Path) -> None:
    module = shaken(timm.create_model(name, num_classes=2, in_chans=5))
    torch.save(module.state_dict(), tmp_path / "five.pth")
    model = load_model(tmp_path / "five.pth", architecture=f"timm/{name}", device="cpu")
    x = torch.rand(1, 5, 160, 160)
    assert torch.equal(model.run(x).logits, module(x))
    assert model.preprocess.channels == 5


@pytest.mark.slow
def test_swag_is_fed_as_it_was_trained(tmp_path: Path) -> None:
    module = torchvision.models.vit_b_16(image_size=384, num_classes=3).eval()
    torch.save(module.state_dict(), tmp_path / "swag.pth")
    model = load_model(tmp_path / "swag.pth", architecture="torchvision/vit_b_16", device="cpu")
    assert (model.preprocess.size, model.preprocess.resize, model.preprocess.interpolation) == (
        (384, 384),
        384,
        "bicubic",
    )
    assert model.preprocess.origin == "torchvision's weights IMAGENET1K_SWAG_E2E_V1"
    x = image(384, 384, batch=1)
    assert torch.equal(model.run(x).logits, module(x))


@pytest.mark.slow
def test_dinov2s_own_files_and_heads(tmp_path: Path) -> None:
    """Meta's names of registers and mask token; heads on one and four layers."""
    module = shaken(timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0))
    state = dict(module.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    prefix = torch.zeros(1, 1, 384)
    state["pos_embed"], state["mask_token"] = torch.cat([prefix, state["pos_embed"]], 1), torch.zeros(1, 384)
    torch.save(state, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    model = load_model(tmp_path / "dinov2_vits14_reg4_pretrain.pth", device="cpu")
    x = image(518, 518, batch=1)
    torch.testing.assert_close(model.run(x).embedding, module(x), atol=1e-5, rtol=1e-5)


# ── what the training program wrote ───────────────────────────────────────────────────────────────────────────────────
def test_timms_training_program_tells_architecture_and_preprocessing(tmp_path: Path) -> None:
    module = shaken(timm.create_model("vit_tiny_patch16_224", num_classes=3))
    args = argparse.Namespace(model="vit_tiny_patch16_224", mean=(0.485, 0.456, 0.406), std=None, crop_pct=0.95)
    content = {
        "epoch": 3,
        "arch": "vit_tiny_patch16_224",
        "state_dict": module.state_dict(),
        "version": 2,
        "args": args,
    }
    torch.save(content, tmp_path / "model_best.pth.tar")
    model = load_model(tmp_path / "model_best.pth.tar", device="cpu")
    assert (model.preprocess.mean, model.preprocess.std, model.preprocess.resize) == (args.mean, (0.5, 0.5, 0.5), 235)
    assert "as in training" in model.preprocess.origin
    del content["args"], content["arch"]
    torch.save(content, tmp_path / "unknown.pth")
    with pytest.raises(
        WeightsError, match=r"fits timm/deit_tiny.*mean 0\.485.* and timm/vit_tiny.*mean 0\.5.*say which"
    ):
        load_model(tmp_path / "unknown.pth")


def test_what_a_person_says_of_the_preprocessing(vit, tmp_path: Path) -> None:
    torch.save(vit.state_dict(), tmp_path / "mine.pth")
    said = {"mean": (0.1, 0.2, 0.3), "std": 0.4, "crop": 0.8, "interpolation": "nearest"}
    names = ["a", "b", "c", "d", "e"]
    model = load_model(tmp_path / "mine.pth", architecture=TINY, preprocess=said, class_names=names, device="cpu")
    preprocess = model.preprocess
    assert (preprocess.mean, preprocess.std, preprocess.resize) == ((0.1, 0.2, 0.3), (0.4, 0.4, 0.4), 200)
    assert preprocess.origin.endswith("mean, std, crop, interpolation as given")
    assert model.class_names == tuple(names)
    with pytest.raises(OptionError, match="2 class names for 5 classes"):
        load_model(tmp_path / "mine.pth", architecture=TINY, class_names=["a", "b"])


# ── heads of their own ────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("units", "key", "expected"),
    [
        (1, "weight", lambda tokens: tokens[-1][:, 0]),
        (4, "module.linear.weight", lambda tokens: torch.cat([t[:, 0] for t in tokens], -1)),
        (2, "weight", lambda tokens: torch.cat([tokens[-1][:, 0], tokens[-1][:, 1:].mean(1)], -1)),
        (5, "weight", lambda tokens: torch.cat([*(t[:, 0] for t in tokens), tokens[-1][:, 1:].mean(1)], -1)),
        (
            2,
            "module.linear.weight",
            lambda tokens: torch.cat(
                (tokens[-1][:, 0].unsqueeze(-1), tokens[-1][:, 1:].mean(1).unsqueeze(-1)), dim=-1
            ).reshape(len(tokens[-1]), -1),
        ),
    ],
    ids=["probe", "DINO ViT-S", "DINOv2", "DINOv2 on 4 layers", "DINO ViT-B"],
)
def test_linear_heads_read_what_they_were_trained_on(units: int, key: str, expected: Callable, tmp_path: Path) -> None:
    backbone = shaken(timm.create_model("test_vit", num_classes=0, depth=4))
    x = image(160, 160)
    hidden, tokens = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(x))), []
    for block in backbone.blocks:
        hidden = block(hidden)
        tokens.append(backbone.norm(hidden))
    weight, bias = torch.randn(3, 64 * units), torch.randn(3)
    torch.save({"state_dict": {key: weight, key.replace("weight", "bias"): bias}}, tmp_path / "linear.pth")
    model = attach_head(seewhy.wrap(backbone), tmp_path / "linear.pth")
    reference = expected(tokens) @ weight.T + bias
    torch.testing.assert_close(model.run(x).logits, reference, atol=1e-4, rtol=1e-4)
    assert isinstance(model.module, OnTokens) is (units > 1)
    for method in (seewhy.methods.GradCAM, seewhy.methods.CDAM, seewhy.methods.AttentionMap):
        assert method(model)(x, target=1).shape == (len(x), 10, 10)


class Fitted:
    """As scikit-learn's LogisticRegression of two classes keeps it."""

    coef_ = np.linspace(-1, 1, 64)[None]
    intercept_ = np.array([0.25])
    classes_ = np.array(["cat", "dog"])


def test_probes_of_scikit_learn(vit, tmp_path: Path) -> None:
    x = image(160, 160)
    backbone = shaken(timm.create_model("test_vit", num_classes=0))
    np.savez(tmp_path / "probe.npz", coef=Fitted.coef_, intercept=Fitted.intercept_, classes=Fitted.classes_)
    for head in (Fitted(), tmp_path / "probe.npz"):
        model = attach_head(seewhy.wrap(backbone), head)
        probability = torch.sigmoid(backbone(x) @ torch.tensor(Fitted.coef_[0]).float() + 0.25)
        torch.testing.assert_close(model.probabilities(model.run(x).logits)[:, 1], probability)
        assert model.class_names == ("cat", "dog")
    (tmp_path / "probe.joblib").write_bytes(b"\x80")
    with pytest.raises(WeightsError, match=r"is a pickle.*numpy\.savez\('probe\.npz', coef=clf\.coef_"):
        attach_head(seewhy.wrap(backbone), tmp_path / "probe.joblib")
    with pytest.raises(WeightsError, match="has 7 inputs, and the model's embedding has 64"):
        attach_head(seewhy.wrap(backbone), nn.Linear(7, 2))
    replaced = attach_head(seewhy.wrap(timm.create_model("test_vit", num_classes=5).eval()), nn.Linear(64, 2))
    assert replaced.run(x).logits.shape == (len(x), 2)
