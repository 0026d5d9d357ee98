"""Deconvnet, guided backprop and Guided Grad-CAM against captum, and ReLUs of every spelling."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    Deconvolution as TheirDeconvolution,
    GuidedBackprop as TheirGuidedBackprop,
    GuidedGradCam as TheirGuidedGradCam,
)
from torch import nn
from toys import batch, toy_cnn, toy_vit, without_inplace

from seewhy.errors import RequirementError
from seewhy.methods import Deconvnet, GradCAM, GuidedBackprop, GuidedGradCAM, Saliency
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer, Structure

CLASSES = [3, 1]
THREE = [Deconvnet, GuidedBackprop, GuidedGradCAM]


@pytest.fixture
def cnn():
    model = toy_cnn()
    model.module.double().eval()
    return model


@pytest.fixture(autouse=True)
def _captum_warns_of_its_hooks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.mark.parametrize(("ours", "theirs"), [(GuidedBackprop, TheirGuidedBackprop), (Deconvnet, TheirDeconvolution)])
def test_guided_backprop_and_deconvnet_are_captums_largest_channel(cnn, x, ours, theirs, agree):
    want = theirs(without_inplace(cnn.module)).attribute(x.clone().requires_grad_(), CLASSES).abs().amax(1)
    agree(ours.card.title, f"captum {theirs.__name__}, max over channels", ours(cnn)(x, CLASSES), want)


@pytest.mark.parametrize("layer", ["stage1", "stage2", "stage2.1"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_guided_grad_cam_is_captums_with_bilinear_upsampling(cnn, x, layer, mode, agree):
    module = without_inplace(cnn.module)
    method = TheirGuidedGradCam(module, module.get_submodule(layer))
    want = method.attribute(x.clone().requires_grad_(), CLASSES, interpolate_mode=mode).abs().amax(1)
    ours = GuidedGradCAM(cnn, layer=layer)(x, CLASSES)
    if mode == "bilinear":
        agree("Guided Grad-CAM", "captum GuidedGradCam, bilinear", ours, want)
    else:
        assert (ours - want).abs().max() > 0.01 * ours.max()


class ByHand(nn.Module):
    """Two linear layers on four numbers, so that each rule can be worked out on paper."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation
        self.first, self.head = nn.Linear(4, 3, bias=False), nn.Linear(3, 1, bias=False)
        self.first.weight = nn.Parameter(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]))
        self.head.weight = nn.Parameter(torch.tensor([[2.0, -3, 5]]))

    def forward(self, x):
        return self.head(self.activation(self.first(x.flatten(1))))


@pytest.mark.parametrize(
    ("cls", "want"),
    [
        # inputs 1, 1, -1; the gradient is 2, -3, 0 (closed); deconvnet keeps what is positive, guided what is open too
        (Saliency, [2, 3, 0, 0]),
        (GuidedBackprop, [2, 0, 0, 0]),
        (Deconvnet, [2, 0, 5, 5]),
    ],
)
def test_the_rules_on_paper(cls, want):
    model = VisionModel(ByHand(torch.relu), Structure("toy", head="head"), name="paper")
    x = torch.tensor([1.0, 1, -2, 1]).view(1, 1, 2, 2)
    assert cls(model)(x, 0).flatten().tolist() == want


def in_place_statement(v):
    v.relu_()
    return v


def in_place_on_a_view(v):
    w = v * 1
    F.relu_(w.view(-1))
    return w


SPELLINGS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "F.relu in place": lambda v: F.relu(v, inplace=True),
    "F.relu in place, positional": lambda v: F.relu(v, True),
    "Tensor.relu": torch.Tensor.relu,
    "Tensor.relu_": torch.Tensor.relu_,
    "torch.relu_": torch.relu_,
    "F.relu_": F.relu_,
    "a statement": in_place_statement,
    "a view": in_place_on_a_view,
    "keyword": lambda v: F.relu(input=v),
    "F.hardtanh as ReLU6": lambda v: F.hardtanh(v, 0.0, 6.0),
    "nn.ReLU6": nn.ReLU6(),
    "F.relu6": F.relu6,
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.hardtanh_": lambda v: F.hardtanh_(v, 0.0, 1e9),
}


@pytest.mark.parametrize("cls", [GuidedBackprop, Deconvnet])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_relus_of_every_spelling_are_ruled(cls, spelling):
    """The toy's values stay below 6, so ReLU6 must agree too."""
    x, want = batch(), None
    for activation in (nn.ReLU(), SPELLINGS[spelling]):
        model = toy_cnn()
        for stage in (model.module.stage1, model.module.stage2):
            stage[2] = activation if isinstance(activation, nn.Module) else Call(activation)
        with torch.no_grad():
            model.module.stage1[1].weight.mul_(0.5)
        assert model.activations(x, [model.layer(0), model.layer(1)])["stage1"].max() < 6
        got = cls(model)(x, CLASSES)
        want = got if want is None else want
    torch.testing.assert_close(got, want)
    assert not torch.allclose(got, Saliency(model)(x, CLASSES), rtol=0.05)


class Call(nn.Module):
    """A function as a module whose name tells nothing."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, v):
        return self.function(v)


def test_relu6_is_closed_above_six_for_guided_backprop_only():
    for cls, want in [(GuidedBackprop, 0.0), (Deconvnet, 2.0), (Saliency, 0.0)]:
        model = VisionModel(ByHand(nn.ReLU6()), Structure("toy", head="head"), name="capped")
        assert cls(model)(torch.tensor([7.0, 0, 0, 0]).view(1, 1, 2, 2), 0).flatten()[0] == want


@pytest.mark.parametrize("cls", THREE)
def test_the_scores_and_the_modules_stay(cls, cnn, x):
    before = [(m, dict(m.__dict__)) for m in cnn.module.modules()]
    scores = []
    want = cnn.module(x)
    handle = cnn.module.head.register_forward_hook(lambda _, __, out: scores.append(out.detach().clone()))
    cls(cnn)(x, CLASSES)
    handle.remove()
    assert torch.equal(scores[0], want)
    assert all(dict(m.__dict__) == d for m, d in before)
    assert F.relu(torch.tensor(-1.0, requires_grad=True)).grad_fn.name().startswith("Relu")  # nothing is patched


@pytest.mark.parametrize("cls", THREE)
def test_models_without_relu_are_refused_before_any_forward(cls):
    with pytest.raises(RequirementError, match=r"GELU instead; these can: .*saliency"):
        cls(toy_vit())
    for other in (nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(), nn.ELU()):
        model = toy_cnn()
        model.module.stage1[2] = model.module.stage2[2] = other
        with pytest.raises(RequirementError, match=type(other).__name__):
            cls(model)
    mixed = toy_cnn()
    mixed.module.stage1[2] = nn.SiLU()
    assert cls(mixed)(batch(), 1).any()


@pytest.mark.parametrize("cls", THREE)
@pytest.mark.parametrize("function", [F.gelu, lambda v: v.clamp(min=0), F.hardtanh, lambda v: F.leaky_relu(v, 0.1)])
def test_models_whose_functions_are_no_relus_are_refused_after_the_forward(cls, function):
    """Their modules tell nothing; a plain gradient under another name is never returned."""
    model = toy_cnn()
    model.module.stage1[2] = model.module.stage2[2] = Call(function)
    with pytest.raises(RequirementError, match="ran none; use saliency"):
        cls(model)(batch(), 1)


def test_guided_grad_cam_is_its_two_factors(cnn, x, agree):
    cam = F.interpolate(GradCAM(cnn)(x, CLASSES)[:, None], (32, 48), mode="bilinear", align_corners=False)[:, 0]
    want = GuidedBackprop(cnn)(x, CLASSES) * cam
    agree("Guided Grad-CAM", "guided backprop × Grad-CAM", GuidedGradCAM(cnn)(x, CLASSES), want)


@pytest.mark.parametrize("cls", THREE)
def test_a_class_without_weights_gives_zeros(cls, cnn, x):
    with torch.no_grad():
        cnn.module.head.weight[2] = 0
    assert not cls(cnn)(x, 2).any()


def test_a_stage_that_is_overwritten_in_place_is_kept_for_grad_cam(x):
    """Layer stage2.1 is read by an in-place ReLU next (pitfall 7)."""
    model = toy_cnn()
    model.module.double()
    out = VisionModel(without_inplace(model.module), Structure("toy", stages=(Layer("stage2", "nchw"),), head="head"))
    one, other = GuidedGradCAM(model, layer="stage2.1")(x, CLASSES), GuidedGradCAM(out, layer="stage2.1")(x, CLASSES)
    torch.testing.assert_close(one, other)
