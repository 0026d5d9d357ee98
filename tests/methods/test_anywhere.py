"""Every method gives the same maps wherever it is called, and leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from small import NAMES, PAIRS, build, target_for
from torch import nn
from torch.utils.checkpoint import checkpoint
from toys import batch, toy_cnn

from seewhy.core.cards import Capability
from seewhy.errors import ModelError, NonFiniteError, RequirementError, TargetError
from seewhy.methods import LRP, GradCAM, GuidedBackprop, Saliency
from seewhy.methods.base import _check_batch
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model
from seewhy.models.structure import Layer, Structure
from seewhy.targets import Rank

every = pytest.mark.parametrize(("cls", "make"), PAIRS, ids=NAMES)


def reference(cls, make):
    return build(cls, make())(batch(), target_for(cls))


@every
def test_in_no_grad_and_in_inference_mode(cls, make):
    want = reference(cls, make)
    with torch.no_grad():
        assert torch.equal(build(cls, make())(batch(), target_for(cls)), want)
    model = make()
    with torch.inference_mode():  # the batch, and the concept vector, are made in it
        maps = build(cls, model)(batch(), target_for(cls))
    assert torch.equal(maps, want)
    assert not maps.is_inference()


@every
def test_with_weights_that_were_made_in_inference_mode(cls, make):
    """Autograd refuses them for good: methods without gradients work, the others say so before any forward."""
    with torch.inference_mode():
        torch.manual_seed(0)
        model = make()
    if Capability.GRADIENTS in cls.card.needs:
        with pytest.raises(RequirementError, match=r"torch.inference_mode \(make the module outside of it\)"):
            build(cls, model)
        return
    copied = make()
    copied.module.load_state_dict({k: v.clone() for k, v in model.module.state_dict().items()})
    assert torch.equal(build(cls, model)(batch(), target_for(cls)), build(cls, copied)(batch(), target_for(cls)))


def test_a_model_loaded_in_inference_mode_has_weights_like_any_other():
    with torch.inference_mode():
        model = load_model("scenes_cnn")
        maps = GradCAM(model)(torch.rand(1, 3, 96, 96), 1)
    assert not any(p.is_inference() for p in model.module.parameters())
    assert maps.std() > 0


@every
def test_on_a_batch_that_requires_grad(cls, make):
    x = batch().requires_grad_()
    with torch.enable_grad():
        maps = build(cls, make())(x, target_for(cls))
    assert torch.equal(maps, reference(cls, make))
    assert not maps.requires_grad
    assert x.requires_grad
    assert x.grad is None


@every
def test_with_a_frozen_model(cls, make):
    model = make()
    model.module.requires_grad_(False)
    assert torch.equal(build(cls, model)(batch(), target_for(cls)), reference(cls, make))


@every
def test_with_a_model_in_train_mode(cls, make):
    model = make()
    model.module.train()
    model.module.head.eval()  # modes are kept for each module
    assert torch.equal(build(cls, model)(batch(), target_for(cls)), reference(cls, make))
    assert [n for n, m in model.module.named_modules() if not m.training] == ["head"]


@every
def test_with_channels_last(cls, make):
    model = make()
    model.module.to(memory_format=torch.channels_last)
    maps = build(cls, model)(batch().to(memory_format=torch.channels_last), target_for(cls))
    torch.testing.assert_close(maps, reference(cls, make), rtol=1e-4, atol=1e-6)


@every
def test_in_float64(cls, make):
    model = make()
    model.module.double()
    maps = build(cls, model)(batch().double(), target_for(cls))
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, reference(cls, make), rtol=1e-3, atol=1e-6)


@every
def test_under_bfloat16_autocast(cls, make):
    want = reference(cls, make)
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        maps = build(cls, model)(batch(), target_for(cls))
    assert maps.dtype == torch.float32
    both = torch.stack([maps.flatten(), want.flatten()])
    # maps that hardly vary (RELAX on the toys: 1e-5 around 1) cannot correlate, but agree to a bfloat16 step
    within_a_step = (maps - want).abs().max() <= 2**-8 * want.abs().max()
    assert cls.card.autocast or within_a_step or torch.corrcoef(both)[0, 1] > 0.98
    with torch.autocast("cpu", torch.bfloat16):
        model.module(batch()).float().sum().backward()
    assert all(p.grad is not None for p in model.module.parameters()), "autocast's cache was left without a graph"


@every
def test_a_batch_is_its_images_one_by_one(cls, make):
    method, x, target = build(cls, make()), batch(), target_for(cls)
    alone = [method(x[i : i + 1], target[i] if isinstance(target, list) else target) for i in range(2)]
    torch.testing.assert_close(method(x, target), torch.cat(alone), rtol=1e-4, atol=1e-6)


@every
def test_maps_have_their_own_grid_and_prefix_tokens_have_no_place_in_it(cls, make):
    rows, cols = reference(cls, make).shape[1:]
    assert (rows, cols) in {(4, 6), (8, 12), (16, 24), (32, 48)}  # tokens, stages 2 and 1, pixels: wider than high


@every
def test_the_model_is_as_it_was(cls, make):
    model = make()
    before, modules = copy.deepcopy(model.module.state_dict()), list(model.module.modules())
    versions = {n: p._version for n, p in model.module.named_parameters()}
    keys = [set(m.__dict__) for m in modules]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    build(cls, model)(batch(), target_for(cls))
    assert torch.equal(torch.get_rng_state(), state)
    assert versions == {n: p._version for n, p in model.module.named_parameters()}
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name])
    assert keys == [set(m.__dict__) for m in modules]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)


@every
def test_the_model_is_as_it_was_after_an_error_inside_it(cls, make):
    model = make()
    model.module.train()
    deepest = model.module.stage1[0] if hasattr(model.module, "stage1") else model.module.blocks[2].attn.qkv
    deepest.register_forward_pre_hook(_fail)
    modules = list(model.module.modules())
    keys, state = [set(m.__dict__) for m in modules], torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        build(cls, model)(batch(), target_for(cls))
    assert keys == [set(m.__dict__) for m in modules]
    assert all(m.training for m in modules)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules) == 1
    assert torch.is_grad_enabled()


def _fail(*_):
    raise ZeroDivisionError("inside the model")


@every
def test_nan_is_never_returned(cls, make):
    model = make()
    with torch.no_grad():
        next(model.module.parameters()).fill_(float("nan"))
        getattr(model.module, "patch_embed", model.module.head).weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="check"):
        build(cls, model)(batch(), target_for(cls))


class Hides(nn.Module):
    """Its features are computed without gradients, whatever the caller wants."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, inner.head

    def forward(self, x):
        with torch.no_grad():
            pooled = self.inner.stage2(self.inner.stage1(x)).mean((2, 3))
        return self.head(pooled)


class Again(nn.Module):
    """Keeps no activations of its first stage: they are computed anew in the backward."""

    def __init__(self, inner, reentrant):
        super().__init__()
        self.inner, self.head, self.reentrant = inner, inner.head, reentrant

    def forward(self, x):
        x = checkpoint(self.inner.stage1, x, use_reentrant=self.reentrant)
        return self.head(self.inner.stage2(x).mean((2, 3)))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("cls", [Saliency, GradCAM, GuidedBackprop, LRP])
def test_activation_checkpointing_is_followed_or_refused_in_words(cls, reentrant):
    plain = toy_cnn()
    layer = Layer("inner.stage2", "nchw")
    structure = Structure("toy", stages=(layer,), cam_layer=layer, head="head")
    model = VisionModel(Again(toy_cnn().module, reentrant), structure, preprocess=plain.preprocess)
    if cls is GradCAM or (cls is Saliency and not reentrant):
        torch.testing.assert_close(cls(model)(batch(), 1), cls(plain)(batch(), 1))
    else:
        with pytest.raises(ModelError, match="activation checkpointing"):
            cls(model)(batch(), 1)


def test_a_score_without_gradient_is_not_a_map_of_zeros():
    for trains in (True, False):
        module = Hides(toy_cnn().module).requires_grad_(trains)
        layer = Layer("inner.stage2", "nchw")
        model = VisionModel(module, Structure("toy", stages=(layer,), head="head"))
        for cls in (GradCAM, Saliency):
            with pytest.raises(ModelError, match="no gradient"):
                cls(model)(batch(), 1)
    with pytest.raises(ModelError, match="no gradient"):
        Saliency(toy_cnn())(batch(), lambda logits: torch.ones(len(logits)))


def test_what_is_no_batch_is_refused():
    model = toy_cnn()
    for wrong, message in [
        (batch()[0], "preprocessed float batch"),
        (batch().int(), "int32"),
        ("cat.jpg", "not str"),
        (batch()[:0], "empty"),
        (batch().to("meta"), "on meta, the model on cpu"),
    ]:
        with pytest.raises(ModelError, match=message):
            _check_batch(wrong, model)  # the shape checks of the tests would be before it in a call
    with pytest.raises(ModelError, match="empty"):
        Saliency(model)(batch()[:0], 1)


def test_bad_targets_are_refused_before_any_forward(monkeypatch):
    model = toy_cnn()
    monkeypatch.setattr(model.module, "forward", lambda x: pytest.fail("ran"))
    for wrong in (5, -1, [1, 2, 3], "top-6", True, ["cat", 7], [Rank(9), "cat"]):
        with pytest.raises(TargetError):
            GradCAM(model)(batch(), wrong)
