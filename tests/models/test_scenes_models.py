"""The reference models: equations on their own terms, and the shipped weights do what the card says."""

from __future__ import annotations

import importlib.resources
import json
import math
import socket

import pytest
import torch
from torch.nn import functional as F

from seewhy.data.scenes import CLASSES
from seewhy.errors import OptionError, UnknownNameError
from seewhy.models.reference.scenes import SceneCNN, SceneViT, build, load, shipped
from seewhy.training.evaluate import evaluate
from seewhy.training.recipes import RECIPES

WEIGHTS = importlib.resources.files("seewhy.models.reference") / "weights"
PLAIN = [name for name in shipped() if RECIPES[name].split == "train"]


def _slow_vit(model: SceneViT, x: torch.Tensor) -> torch.Tensor:
    """The forward pass written out token by token and head by head, for one image."""
    p, (gh, gw) = model.patch_embed.patch_size[0], model.patch_embed.grid_size
    weight, bias = model.patch_embed.proj.weight.flatten(1), model.patch_embed.proj.bias
    tokens = [] if model.cls_token is None else [model.cls_token[0, 0]]
    tokens += [] if model.reg_token is None else list(model.reg_token[0])
    for i in range(gh):
        for j in range(gw):
            patch = x[:, i * p : (i + 1) * p, j * p : (j + 1) * p].flatten()
            tokens.append(weight @ patch + bias + model.pos_embed[0, i * gw + j])
    t = torch.stack(tokens)
    for block in model.blocks:
        q, k, v = block.attn.qkv(block.norm1(t)).split(t.shape[1], dim=1)
        heads = []
        for h in range(block.attn.num_heads):
            c = slice(h * block.attn.head_dim, (h + 1) * block.attn.head_dim)
            scores = q[:, c] @ k[:, c].T / math.sqrt(block.attn.head_dim)
            heads.append(scores.softmax(1) @ v[:, c])
        t = t + block.attn.proj(torch.cat(heads, 1))
        t = t + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(t))))
    t = model.norm(t)
    return model.head(t[0] if model.pool == "cls" else t[model.num_prefix_tokens :].mean(0))


@pytest.mark.parametrize("options", [{}, {"registers": 4, "pool": "mean"}, {"registers": 2}])
def test_the_transformer_is_its_equations(options: dict) -> None:
    model = SceneViT(img_size=32, dim=24, depth=2, num_heads=3, **options).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = torch.stack([_slow_vit(model, image) for image in x])
    torch.testing.assert_close(model(x), expected)
    assert model.num_prefix_tokens == options.get("registers", 0) + (options.get("pool", "cls") == "cls")
    assert model.forward_features(x).shape == (2, 16 + model.num_prefix_tokens, 24)


def test_a_window_sees_its_patches_and_nothing_else() -> None:
    model = SceneViT(img_size=32, dim=24, depth=2, num_heads=3).eval()
    x, places = torch.randn(1, 3, 32, 32), torch.tensor([0, 1, 4, 5])
    y = x.clone()
    y[:, :, 16:] = 0
    torch.testing.assert_close(model.forward_features(x, places), model.forward_features(y, places))
    torch.testing.assert_close(model.forward_features(x, torch.arange(16)), model.forward_features(x))


def test_attention_begins_local() -> None:
    model = SceneViT()
    tokens = model.blocks[0].norm1(model.pos_embed[0])
    q, k, _ = model.blocks[0].attn.qkv(tokens).reshape(144, 3, 5, 32).permute(1, 2, 0, 3)
    weights = (q @ k.transpose(1, 2) * model.blocks[0].attn.scale).softmax(-1).mean(0)
    at = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij"), -1).reshape(144, 2)
    distance = torch.cdist(at, at)
    assert (weights * distance).sum(1).mean() < 0.7 * distance.mean()


def test_the_cnn_keeps_a_map_of_an_eighth_and_no_negative_values() -> None:
    model = SceneCNN().eval()
    x = torch.randn(2, 3, 96, 96)
    features = model.forward_features(x)
    assert features.shape == (2, 128, 12, 12)
    assert features.min() >= 0
    torch.testing.assert_close(model(x), features.mean((2, 3)) @ model.fc.weight.T + model.fc.bias)


def test_wrong_requests() -> None:
    with pytest.raises(OptionError, match="mean"):
        SceneViT(pool="max")
    with pytest.raises(OptionError, match="resize"):
        SceneViT()(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UnknownNameError, match="SceneViT"):
        build("SceneVit")
    with pytest.raises(UnknownNameError, match="scenes_vit"):
        load("scenes_vti")


def test_both_plain_models_ship() -> None:
    assert {"scenes_cnn", "scenes_vit"} <= set(shipped())
    assert set(shipped()) <= set(RECIPES)


@pytest.mark.parametrize("name", shipped())
def test_weights_are_small_half_and_as_the_card_says(name: str) -> None:
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 5e6
    model, info = load(name)
    assert tuple(info["classes"]) == CLASSES
    assert info["parameters"] == sum(p.numel() for p in model.parameters())
    assert not model.training
    assert all(p.dtype == torch.float32 and torch.equal(p, p.half().float()) for p in model.parameters())
    card = (WEIGHTS / "MODEL_CARD.md").read_text()
    for split, figures in info["figures"].items():
        assert split not in ("single", "multi") or f"| {split} | {figures['mAP']:.3f} |" in card


@pytest.mark.parametrize("name", PLAIN)
def test_recorded_figures_reach_the_target(name: str) -> None:
    figures = json.loads((WEIGHTS / f"{name}.json").read_text())["figures"]
    assert figures["single"]["mAP"] >= 0.95
    assert figures["multi"]["mAP"] >= 0.90


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(("split", "target"), [pytest.param("single", 0.95, marks=pytest.mark.slow), ("multi", 0.90)])
def test_shipped_weights_reach_the_target(name: str, split: str, target: float) -> None:
    assert evaluate(load(name)[0], split, 120)["mAP"] >= target - 0.02  # a small sample of what the card measured


@pytest.mark.parametrize("name", [n for n in shipped() if RECIPES[n].split == "train_shortcut"])
def test_shortcut_models_read_the_mark(name: str) -> None:
    figures = evaluate(load(name)[0], "shortcut", 80)
    assert figures["mark wins"] > 0.8


def test_loading_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model that ships asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load("scenes_cnn")
