"""LaFAM and Grad-CAM against their equations, captum and the grad-cam package."""

from __future__ import annotations

import copy

import literal
import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM as TheirGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from toys import batch, toy_cnn, toy_vit, without_inplace

from seewhy.errors import LayoutError, RequirementError, UnknownNameError
from seewhy.methods import GradCAM, LaFAM
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer, Structure

CLASSES = [3, 1]


@pytest.fixture
def cnn():
    model = toy_cnn()
    model.module.double()
    return model


def vits():
    for options in ({}, {"prefix": 5}, {"prefix": 0, "pool": "mean"}):
        model = toy_vit(**options)
        model.module.double()
        yield model


def features(module, x, name):
    """The output of the layer `name`, of a module without in-place operations; in the graph."""
    kept = []
    handle = module.get_submodule(name).register_forward_hook(lambda _, __, out: kept.append(out))
    logits = module(x)
    handle.remove()
    return kept[0], logits


# the layers stage1.1 and stage2.1 are batch norms whose output an in-place ReLU overwrites next (pitfall 7)
LAYERS = ["stage2", "stage1", "stage2.1", "stage1.1", "stage2.0"]


@pytest.mark.parametrize("layer", LAYERS)
def test_lafam_is_the_mean_over_channels(cnn, x, layer, agree):
    maps, _ = features(without_inplace(cnn.module), x, layer)
    want = torch.zeros(maps.shape[0], *maps.shape[2:], dtype=maps.dtype)
    for channel in range(maps.shape[1]):
        want += maps[:, channel].detach() / maps.shape[1]
    agree("LaFAM", "literal equation", LaFAM(cnn, layer=layer)(x), want)


def test_lafam_by_default_takes_the_last_stage_and_needs_no_target(cnn, x):
    for target in (None, 2, "nonsense"):
        assert torch.equal(LaFAM(cnn)(x, target), LaFAM(cnn, layer="stage2")(x))
    assert torch.equal(LaFAM(cnn, layer=0)(x), LaFAM(cnn, layer=cnn.module.stage1)(x))
    assert LaFAM(cnn)(x).min() >= 0  # a ReLU ends the stage


def test_lafam_on_a_vit_is_each_tokens_distance_to_the_mean_token(x, agree):
    """Of the last block's norm1: what comes after it no longer reaches the score of a class token."""
    for model in vits():
        grid = model.activations(x, [model.cam_layer()])[model.cam_layer().name]
        tokens = grid.flatten(2).mT
        want = torch.stack([(tokens[:, i] - tokens.mean(1)).pow(2).sum(-1).sqrt() for i in range(tokens.shape[1])], 1)
        agree("LaFAM", "literal equation, ViT", LaFAM(model)(x), want.unflatten(1, grid.shape[2:]))


def test_lafam_of_the_paper_on_a_vit_is_the_mean_of_the_patch_tokens(x, agree):
    for model in vits():
        tokens, _ = literal.through(model.module, literal.embed(model.module, x))
        want = literal.on_grid(tokens.mean(-1), model.module.prefix, 4, 6)
        agree("LaFAM", "literal mean, ViT", LaFAM(model, layer=-1, reduce="mean")(x), want)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_is_equations_1_and_2(cnn, x, layer, relu, agree):
    maps, logits = features(without_inplace(cnn.module), x, layer)
    grads = torch.autograd.grad(logits[0, 3] + logits[1, 1], maps)[0]
    want = torch.zeros(maps.shape[0], *maps.shape[2:], dtype=maps.dtype)
    for image in range(2):
        for channel in range(maps.shape[1]):
            want[image] += grads[image, channel].mean() * maps[image, channel].detach()
    want = want.clamp(min=0) if relu else want
    agree("Grad-CAM", "literal equation", GradCAM(cnn, layer=layer, relu=relu)(x, CLASSES), want)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("layer", ["stage2", "stage1", "stage2.1"])
def test_grad_cam_is_captums(cnn, x, layer, relu, agree):
    module = without_inplace(cnn.module)
    want = LayerGradCam(module, module.get_submodule(layer)).attribute(x, CLASSES, relu_attributions=relu)[:, 0]
    agree("Grad-CAM", "captum LayerGradCam", GradCAM(cnn, layer=layer, relu=relu)(x, CLASSES), want)


def raw_grad_cam(module, layer, x, reshape=None):
    """The grad-cam package's map on the layer's own grid, before it clips, resizes and normalizes."""
    with TheirGradCAM(module, [layer], reshape_transform=reshape) as cam:
        targets = [ClassifierOutputTarget(c) for c in CLASSES]
        cam(x, targets)
        held = cam.activations_and_grads
        return cam.get_cam_image(x, layer, targets, held.activations[0].numpy(), held.gradients[0].numpy())


def test_grad_cam_is_the_grad_cam_packages(cnn, x, agree):
    module = without_inplace(cnn.module)
    want = np.maximum(raw_grad_cam(module, module.stage2, x), 0)
    agree("Grad-CAM", "grad-cam package, CNN", GradCAM(cnn)(x, CLASSES), want)


def test_grad_cam_on_a_vit_is_the_grad_cam_packages(x, agree):
    """Their reshape_transform drops the prefix tokens before weights are made: the mean is over patches only."""
    for model in vits():
        module, prefix = copy.deepcopy(model.module), model.module.prefix

        def reshape(tokens, prefix=prefix):
            return tokens[:, prefix:].reshape(len(tokens), 4, 6, -1).permute(0, 3, 1, 2)

        want = raw_grad_cam(module, module.blocks[-1].norm1, x, reshape)
        agree("Grad-CAM, no ReLU", "grad-cam package, ViT", GradCAM(model, relu=False)(x, CLASSES), want)
        agree("Grad-CAM", "grad-cam package, ViT", GradCAM(model)(x, CLASSES), np.maximum(want, 0))


def test_weights_are_means_over_patches_not_over_all_tokens(x):
    """With the class token in the mean (a saboteur's version) the map is another."""
    model = toy_vit(prefix=5)
    module = copy.deepcopy(model.module.double())
    tokens, logits = features(module, x, "blocks.2.norm1")
    grads = torch.autograd.grad(logits[0, 3] + logits[1, 1], tokens)[0]
    wrong = literal.on_grid((grads.mean(1, keepdim=True) * tokens).sum(-1).detach(), 5, 4, 6)
    ours = GradCAM(model, relu=False)(x, CLASSES).double()
    assert not torch.allclose(ours, wrong, rtol=0.05)


def test_each_image_has_its_own_target(cnn, x):
    both = GradCAM(cnn, relu=False)(x, CLASSES)
    torch.testing.assert_close(both[:1], GradCAM(cnn, relu=False)(x[:1], 3))
    torch.testing.assert_close(both[1:], GradCAM(cnn, relu=False)(x[1:], 1))
    assert not torch.allclose(both[1:], GradCAM(cnn, relu=False)(x[1:], 3), rtol=0.05)


def test_rows_are_rows_and_columns_are_columns():
    """A bright spot low on the left of a wide image is low on the left of the map."""
    model = toy_cnn()
    with torch.no_grad():
        for conv in (model.module.stage1[0], model.module.stage2[0]):
            conv.weight.copy_(conv.weight.abs())
    x = torch.zeros(1, 3, 32, 48)
    x[:, :, 26:28, 6:8] = 100.0
    assert LaFAM(model)(x).shape == (1, 8, 12)
    assert divmod(int(LaFAM(model)(x).argmax()), 12) in {(6, 1), (7, 1), (6, 2), (7, 2)}


class Last(nn.Module):
    """Channels last between its layers, like Swin."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(torch.relu(self.mix(self.conv(x).permute(0, 2, 3, 1))).mean((1, 2)))


def test_channels_last_layers_are_averaged_over_channels(agree):
    """Pitfall 1: the wrong axis gives a map that looks normal."""
    layer = Layer("mix", "nhwc")
    module = Last().double()
    model = VisionModel(module, Structure("toy", stages=(layer,), cam_layer=layer, head="head"))
    x = batch().double()
    out = module.mix(module.conv(x).permute(0, 2, 3, 1)).detach().requires_grad_()
    logits = module.head(torch.relu(out).mean((1, 2)))
    grads = torch.autograd.grad(logits[0, 3] + logits[1, 1], out)[0]
    want = torch.einsum("bc,bhwc->bhw", grads.mean((1, 2)), out)
    agree("Grad-CAM", "literal equation, NHWC", GradCAM(model, relu=False)(x, CLASSES), want)
    # the ReLU right after the layer belongs to the activation
    agree("LaFAM", "literal equation, NHWC", LaFAM(model)(x), out.relu().mean(-1))


def test_layers_that_cannot_work_are_refused():
    cnn, vit = toy_cnn(), toy_vit()
    with pytest.raises(UnknownNameError, match="'stage2'"):
        GradCAM(cnn, layer="stage22")
    with pytest.raises(UnknownNameError, match="choose from 0, 1"):
        LaFAM(cnn, layer=2)
    with pytest.raises(UnknownNameError, match="not part of this model"):
        LaFAM(cnn, layer=nn.ReLU())
    with pytest.raises(LayoutError, match="not a nchw map"):
        LaFAM(cnn, layer=Layer("head", "nchw"))(batch())
    for dead in ("blocks.2", "blocks.2.norm2", "blocks.2.mlp", "norm"):  # pitfall 3
        with pytest.raises(LayoutError, match=r"blocks\.2\.norm1"):
            GradCAM(vit, layer=Layer(dead, "tokens"))
    GradCAM(toy_vit(prefix=0, pool="mean"), layer="blocks.2")  # the mean of patches listens to the last block
    with pytest.raises(RequirementError, match="feature maps"):
        LaFAM(VisionModel(nn.Conv2d(3, 1, 1), Structure("bare")))


class Functional(torch.nn.Module):
    """Two convolutions whose ReLUs are functions, as in DenseNet."""

    def __init__(self, inplace):
        super().__init__()
        self.one, self.two, self.head = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(6, 6, 3, 2), torch.nn.Linear(6, 4)
        self.inplace = inplace

    def forward(self, x):
        x = torch.nn.functional.relu(self.one(x), inplace=self.inplace)
        x = self.two(x)
        assert x.shape[1] == 6  # asking is no operation
        return self.head(torch.nn.functional.relu(x, self.inplace).mean((2, 3)))


@pytest.mark.parametrize("inplace", [False, True])
def test_lafam_takes_what_a_relu_makes_of_the_layer(x, inplace, agree):
    """The paper's A is the activation: the ReLU counts where it is a function; one that is a module has a name."""
    module = Functional(inplace).double()
    stages = (Layer("one", "nchw"), Layer("two", "nchw"))
    model = VisionModel(module, Structure("test", stages=stages, head="head"), name="functional")
    two = module.two(module.one(x).relu())
    assert two.min() < 0
    agree("LaFAM", "mean of relu(layer)", LaFAM(model)(x), two.relu().mean(1))
    agree("LaFAM", "mean of relu(layer)", LaFAM(model, layer="one")(x), module.one(x).relu().mean(1))
    for after in (module.two, torch.nn.ReLU(inplace)):
        other = VisionModel(torch.nn.Sequential(module.one, after), Structure("test", stages=(Layer("0", "nchw"),)))
        agree("LaFAM", "mean of a layer without a ReLU", LaFAM(other, layer="0")(x), module.one(x).mean(1))
