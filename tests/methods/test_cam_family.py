"""Grad-CAM++, Layer-CAM, Score-CAM, RefineCAM and LaFAM's options against their equations, grad-cam and torchcam."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam import (
    GradCAMPlusPlus as TheirGradCAMPlusPlus,
    LayerCAM as TheirLayerCAM,
    RefineCAM as TheirRefineCAM,
    ScoreCAM as TheirScoreCAM,
)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchcam.methods import (
    GradCAMpp as TorchcamGradCAMpp,
    LayerCAM as TorchcamLayerCAM,
    RefineCAM as TorchcamRefineCAM,
    ScoreCAM as TorchcamScoreCAM,
)
from toys import batch, toy_cnn, toy_vit

import seewhy
from seewhy.core.cards import Cost, Passes
from seewhy.data.scenes import Scenes
from seewhy.errors import LayoutError, ModelError, OptionError
from seewhy.methods import GradCAM, GradCAMPlusPlus, LaFAM, LayerCAM, RefineCAM, ScoreCAM
from seewhy.methods.cam.base import unit_range
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Layer, Structure

CLASSES = [3, 1]
TARGETS = [ClassifierOutputTarget(c) for c in CLASSES]


@pytest.fixture
def cnn():
    """With a head so large that the other packages' ε beside g² is nothing."""
    model = toy_cnn()
    model.module.double().eval()
    with torch.no_grad():
        model.module.head.weight.mul_(1e4)
    return model


class Fine(nn.Module):
    """A layer at the input's own resolution."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)) * 10)


@pytest.fixture
def fine():
    layer = Layer("features", "nchw")
    return VisionModel(Fine().double(), Structure("toy", stages=(layer,), cam_layer=layer, head="head"), name="fine")


def plain(model):
    """A copy of the module without in-place operations, for packages that keep a view of what is overwritten."""
    module = copy.deepcopy(model.module).eval()
    for m in module.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = False
    return module


def inside(module, x, *names):
    """Activations and gradients of layers, in one forward of a plain module."""
    kept = {}
    handles = [
        module.get_submodule(n).register_forward_hook(lambda _, __, out, n=n: kept.update({n: out})) for n in names
    ]
    logits = module(x)
    for handle in handles:
        handle.remove()
    score = sum(logits[i, c] for i, c in enumerate(CLASSES))
    return [(kept[n].detach(), torch.autograd.grad(score, kept[n], retain_graph=True)[0]) for n in names]


def equation_19(A, G):
    """Grad-CAM++ position by position, channel by channel, as in the paper."""
    maps = torch.zeros(len(A), *A.shape[2:], dtype=A.dtype)
    for b in range(A.shape[0]):
        for c in range(A.shape[1]):
            weight = 0.0
            for g in G[b, c].flatten().tolist():
                if g > 0:
                    weight += g**2 / (2 * g**2 + float(A[b, c].sum()) * g**3) * g
            maps[b] += weight * A[b, c]
    return maps.clamp(min=0)


def theirs(cam_class, module, layer, x, **call):
    """The grad-cam package's map on the layer's grid, before it resizes and normalizes; clipped as it clips."""
    with cam_class(module, [layer]) as cam:
        cam(x, TARGETS)
        held = cam.activations_and_grads
        gradients = held.gradients[0].numpy() if held.gradients else None
        image = cam.get_cam_image(x, layer, TARGETS, held.activations[0].numpy(), gradients, **call)
    return torch.from_numpy(image).clamp(min=0)


def torchcams(cam_class, module, layers, x, **options):
    """torchcam's maps, not normalized."""
    with cam_class(module, layers, input_shape=tuple(x.shape[1:]), **options) as cam:
        return cam(CLASSES, module(x), normalized=False)


# ── Grad-CAM++ and Layer-CAM ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_grad_cam_plus_plus_is_equation_19(cnn, x, layer, agree):
    (pair,) = inside(plain(cnn), x, layer)
    agree("Grad-CAM++", "literal equation", GradCAMPlusPlus(cnn, layer=layer)(x, CLASSES), equation_19(*pair))


def test_grad_cam_plus_plus_is_the_grad_cam_packages(cnn, x, agree):
    module = plain(cnn)
    for layer in ("stage1", "stage2"):
        want = theirs(TheirGradCAMPlusPlus, module, module.get_submodule(layer), x, eigen_smooth=False)
        agree("Grad-CAM++", "grad-cam package", GradCAMPlusPlus(cnn, layer=layer)(x, CLASSES), want, 1e-5)


def test_our_grad_cam_plus_plus_has_no_epsilon(x, agree):
    """With gradients as small as deep layers have, the package's 1e-6 decides the weights; ours stay equation 19."""
    model = toy_cnn()
    model.module.double().eval()
    with torch.no_grad():
        model.module.head.weight.mul_(0.1)
    module = plain(model)
    (pair,) = inside(module, x, "stage2")
    ours = GradCAMPlusPlus(model)(x, CLASSES).double()
    agree("Grad-CAM++", "literal equation, small gradients", ours, equation_19(*pair))
    other = theirs(TheirGradCAMPlusPlus, module, module.stage2, x, eigen_smooth=False)
    assert pair[1].abs().max() < 1e-3
    assert other.max() < 0.5 * ours.max()


def test_torchcams_grad_cam_plus_plus_forgets_to_divide(cnn, x, agree):
    """torchcam 0.5.0 divides a copy (`alpha[mask].div_(…)`): its weights are Σ ReLU(g)³, which is not equation 19."""
    module = plain(cnn)
    ((A, G),) = inside(module, x, "stage1")
    torchcam = torchcams(TorchcamGradCAMpp, module, "stage1", x)[0].clamp(min=0)
    undivided = (G.clamp(min=0).pow(3).sum((2, 3), keepdim=True) * A).sum(1).clamp(min=0)
    agree("torchcam's Grad-CAM++", "Σ ReLU(g)³ A", torchcam, undivided, 1e-5)
    ours = GradCAMPlusPlus(cnn, layer="stage1")(x, CLASSES)
    assert (unit_range(torchcam) - unit_range(ours)).abs().max() > 0.1


def test_grad_cam_plus_plus_stays_bounded_where_activations_are_negative(x):
    """Equation 19 has a pole at Σ A · g = −2; on tokens the sum is often negative. Then α is 1/2, its largest value."""
    A = torch.full((1, 1, 2, 2), -1.0, dtype=torch.float64)
    G = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    assert GradCAMPlusPlus.combine(A, G).eq(0).all()  # and not NaN or infinite: 2 g² + S g³ is 0 here
    A[..., 0] = 0.5
    torch.testing.assert_close(GradCAMPlusPlus.combine(A, G)[0, :, 0], torch.full((2,), 4 * 0.5 * 0.5 * 0.5).double())


def test_literal_grad_cam_plus_plus_is_the_grad_cam_packages_where_activations_are_negative(x, agree):
    model = toy_vit()
    model.module.double().eval()
    module, norm1 = copy.deepcopy(model.module), "blocks.1.norm1"

    def reshape(tokens):
        return tokens[:, 1:].reshape(len(tokens), 4, 6, -1).permute(0, 3, 1, 2)

    with TheirGradCAMPlusPlus(module, [module.blocks[1].norm1], reshape_transform=reshape) as cam:
        cam(x, TARGETS)
        held = cam.activations_and_grads
        A, G = held.activations[0], held.gradients[0]
        want = cam.get_cam_image(x, module, TARGETS, A.numpy(), G.numpy())
    assert A.sum((2, 3)).min() < 0
    ours = GradCAMPlusPlus(model, layer=norm1, alpha="literal")(x, CLASSES)
    agree("Grad-CAM++, literal α", "grad-cam package, tokens", ours, torch.from_numpy(want).clamp(min=0), 1e-5)
    bounded = GradCAMPlusPlus(model, layer=norm1)(x, CLASSES)
    assert not torch.allclose(ours, bounded, rtol=0.1)


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_layer_cam_is_its_equation_and_the_packages(cnn, x, layer, agree):
    module = plain(cnn)
    ((A, G),) = inside(module, x, layer)
    ours = LayerCAM(cnn, layer=layer)(x, CLASSES)
    want = torch.zeros(len(A), *A.shape[2:], dtype=A.dtype)
    for channel in range(A.shape[1]):
        want += torch.where(G[:, channel] > 0, G[:, channel], 0) * A[:, channel]
    agree("Layer-CAM", "literal equation", ours, want.clamp(min=0))
    sub = module.get_submodule(layer)
    agree("Layer-CAM", "grad-cam package", ours, theirs(TheirLayerCAM, module, sub, x, eigen_smooth=False))
    agree("Layer-CAM", "torchcam", ours, torchcams(TorchcamLayerCAM, module, layer, x)[0].clamp(min=0))


def test_layer_cam_differs_from_grad_cam_where_gradients_differ_by_position(cnn, x):
    shallow = [unit_range(cls(cnn, layer="stage1")(x, CLASSES)) for cls in (GradCAM, LayerCAM)]
    assert (shallow[0] - shallow[1]).abs().max() > 0.1


# ── Score-CAM ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def literal_score_cam(module, A, x, channels=None):
    """Algorithm 1, one image and one channel at a time."""
    maps = []
    for b, c in enumerate(CLASSES):
        kept = channels[b] if channels else range(A.shape[1])
        scores = []
        for k in kept:
            mask = F.interpolate(A[b : b + 1, k : k + 1], x.shape[-2:], mode="bilinear", align_corners=False)
            spread = mask.max() - mask.min()
            mask = (mask - mask.min()) / spread if spread > 0 else mask * 0
            with torch.no_grad():
                empty = module(x[b : b + 1] * 0)[0, c]
                scores.append(module(x[b : b + 1] * mask)[0, c] - empty)
        weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
        maps.append(sum(w * A[b, k] for w, k in zip(weights, kept, strict=True)).clamp(min=0))
    return torch.stack(maps)


@pytest.fixture
def mild():
    """Scores that differ by a few units, so that the softmax is neither flat nor one-hot."""
    model = toy_cnn()
    model.module.double().eval()
    with torch.no_grad():
        model.module.head.weight.mul_(30)
    return model


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_score_cam_is_algorithm_1(mild, x, layer, agree):
    module = plain(mild)
    ((A, _),) = inside(module, x, layer)
    ours = ScoreCAM(mild, layer=layer)(x, CLASSES)
    agree("Score-CAM", "literal algorithm", ours, literal_score_cam(module, A, x))
    assert (ours[0] - ScoreCAM(mild, layer=layer)(x, [0, 1])[0]).abs().max() > 0.05 * ours.max()


def test_score_cam_is_the_grad_cam_packages_but_for_the_corners(mild, x, agree, monkeypatch):
    """The package upsamples with aligned corners; with cell centers, as everywhere in seewhy, its map is ours."""
    module = plain(mild)
    corners = theirs(TheirScoreCAM, module, module.stage2, x, eigen_smooth=False)
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", partial(nn.Upsample, mode="bilinear", align_corners=False))
    centers = theirs(TheirScoreCAM, module, module.stage2, x, eigen_smooth=False)
    ours = ScoreCAM(mild)(x, CLASSES)
    agree("Score-CAM", "grad-cam package, align_corners=False", ours, centers, 1e-5)
    assert (corners - ours).abs().max() > 1e-3 * ours.max()


def test_score_cam_is_torchcams_but_for_the_order(fine, mild, x, agree):
    """torchcam takes min-max before it upsamples, the paper after: the same where nothing is upsampled."""
    want = torchcams(TorchcamScoreCAM, fine.module, "features", x)[0].clamp(min=0)
    agree("Score-CAM", "torchcam, nothing to upsample", ScoreCAM(fine)(x, CLASSES), want, 1e-5)
    first = torchcams(TorchcamScoreCAM, plain(mild), "stage2", x)[0].clamp(min=0)
    ours = ScoreCAM(mild)(x, CLASSES)
    assert 1e-4 * ours.max() < (first - ours).abs().max() < 0.2 * ours.max()


def test_score_cam_takes_the_channels_that_vary_most(mild, x, agree):
    module = plain(mild)
    ((A, _),) = inside(module, x, "stage2")
    spread = A.flatten(2).std(2)
    channels = [sorted(range(8), key=lambda k, b=b: -float(spread[b, k]))[:3] for b in range(2)]
    assert channels[0] != channels[1] or len(set(channels[0])) == 3
    ours = ScoreCAM(mild, top_k=3)(x, CLASSES)
    agree("Score-CAM, top_k", "literal algorithm", ours, literal_score_cam(module, A, x, channels))
    assert torch.equal(ScoreCAM(mild, top_k=100)(x, CLASSES), ScoreCAM(mild)(x, CLASSES))


@pytest.mark.parametrize(
    ("options", "above"),
    [
        ({}, 8),
        ({"top_k": 3}, 3),
        ({"top_k": 100}, 8),
        ({"layer": "stage1.0"}, 8),
    ],
)
def test_score_cam_says_what_it_costs(mild, x, options, above):
    method, ran = ScoreCAM(mild, **options), []
    assert method.cost == Cost.split(below=Passes(above + 1), above=Passes(above))
    handle = mild.module.head.register_forward_hook(lambda _, args, __: ran.append(len(args[0])))
    method(x, CLASSES)
    handle.remove()
    assert sum(ran) == 2 * above


def test_score_cam_looks_through_dead_channels_without_nan(mild, x, agree):
    """A channel that is 0 everywhere shows nothing: its mask is empty, not NaN."""
    with torch.no_grad():
        mild.module.stage2[1].weight[2], mild.module.stage2[1].bias[2] = 0, -1
        mild.module.stage2[1].weight[5], mild.module.stage2[1].bias[5] = 0, 2.5
    module = plain(mild)
    ((A, _),) = inside(module, x, "stage2")
    assert A[:, 2].eq(0).all()
    assert A[:, 5].eq(2.5).all()
    agree("Score-CAM", "literal algorithm, dead channels", ScoreCAM(mild)(x, CLASSES), literal_score_cam(module, A, x))


# ── RefineCAM ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cam", ["grad_cam_plus_plus", "grad_cam", "layer_cam"])
def test_refine_cam_is_the_product_over_layers(cnn, x, cam, agree):
    single = {"grad_cam_plus_plus": GradCAMPlusPlus, "grad_cam": GradCAM, "layer_cam": LayerCAM}[cam]
    want = torch.ones(2, 16, 24)
    how = {"alpha": "literal"} if cam == "grad_cam_plus_plus" else {}
    for layer in ("stage2", "stage1"):
        maps = single(cnn, layer=layer, **how)(x, CLASSES)
        for b in range(2):
            scaled = (maps[b] - maps[b].min()) / (maps[b].max() - maps[b].min())
            want[b] *= F.interpolate(scaled[None, None], (16, 24), mode="bilinear", align_corners=False)[0, 0]
    want = torch.stack([(w - w.min()) / (w.max() - w.min()) for w in want]).nan_to_num(0)  # a layer may be silent
    ours = RefineCAM(cnn, cam=cam)(x, CLASSES)
    agree(f"RefineCAM, {cam}", "product of single maps", ours, want, 1e-5)
    assert torch.equal(ours, RefineCAM(cnn, cam=cam, layers=["stage2", "stage1", 0])(x, CLASSES))


def test_refine_cam_is_torchcams_over_layer_cam(cnn, x, agree):
    """Over Layer-CAM: for Grad-CAM++ torchcam's weights are others (above)."""
    module = plain(cnn)
    with TorchcamRefineCAM(module, ["stage1", "stage2"], input_shape=(3, 32, 48), base_method=TorchcamLayerCAM) as cam:
        (want,) = cam(CLASSES, module(x))
    agree("RefineCAM", "torchcam over Layer-CAM", RefineCAM(cnn, cam="layer_cam")(x, CLASSES), want, 1e-5)


def test_refine_cam_of_a_vit_is_the_grad_cam_packages(agree):
    """The authors' list: the first norms of the last four blocks; their products at the pixels."""
    model, depth, x = seewhy.load_model("scenes_vit"), 4, scene_batch(3)
    method = RefineCAM(model, grid="input")
    norms = [block.norm1 for block in model.structure.blocks[-depth:]]
    assert [layer.name for layer in method._layers] == norms

    def reshape(tokens):
        return tokens[:, model.structure.prefix_tokens :].unflatten(1, model.grid(96, 96)).permute(0, 3, 1, 2)

    module = copy.deepcopy(model.module)
    package = TheirRefineCAM(module, [module.get_submodule(norm) for norm in norms], reshape)
    want = package(x, [ClassifierOutputTarget(0)] * 3)
    agree("RefineCAM, ViT", "grad-cam package", method(x, 0), torch.from_numpy(want), 5e-3)
    assert [layer.name for layer in RefineCAM(toy_vit(depth=2))._layers] == ["blocks.0.norm1", "blocks.1.norm1"]
    with pytest.raises(LayoutError, match=r"blocks\.2\.norm1"):
        RefineCAM(toy_vit(), layers=["blocks.2"])


def scene_batch(n):
    scenes = Scenes("single", seed=5)
    return seewhy.load_model("scenes_vit").preprocess_batch([scenes[i].image for i in range(n)])


def test_refine_cam_names_what_is_not_a_list_of_layers():
    for wrong in ("stage1", [], 3):
        with pytest.raises(OptionError, match="not a list of layers"):
            RefineCAM(toy_cnn(), layers=wrong)
    with pytest.raises(OptionError, match="layer_cam"):
        RefineCAM(toy_cnn(), cam="lafam")


# ── LaFAM's options, and what is zero ─────────────────────────────────────────────────────────────────────────────────


def test_lafam_by_norm_is_the_length_of_each_token(x, agree):
    for make in (toy_cnn, partial(toy_vit, prefix=5)):
        model = make()
        model.module.double()
        features = model.activations(x, [model.layer()])[model.layer().name]
        want = torch.stack(
            [
                features[:, :, r, c].pow(2).sum(1).sqrt()
                for r in range(features.shape[2])
                for c in range(features.shape[3])
            ],
            1,
        ).unflatten(1, features.shape[2:])
        agree("LaFAM, norm", "literal equation", LaFAM(model, layer=-1, reduce="norm")(x), want)


def test_lafam_with_a_threshold_is_min_maxed_per_image(x):
    model = toy_cnn()
    model.module.double()
    raw, got = LaFAM(model)(x), LaFAM(model, threshold=0.4)(x)
    for before, after in zip(raw, got, strict=True):
        scaled = (before - before.min()) / (before.max() - before.min())
        torch.testing.assert_close(after, torch.where(scaled >= 0.4, scaled, torch.zeros(())), rtol=1e-5, atol=1e-6)
        assert 0 < (after == 0).sum() < after.numel()
    for wrong in (-0.1, 1.1):
        with pytest.raises(OptionError, match="threshold"):
            LaFAM(model, threshold=wrong)


@pytest.mark.parametrize("cls", [GradCAM, GradCAMPlusPlus, LayerCAM, RefineCAM, ScoreCAM])
def test_a_class_that_never_activates_gives_zeros_and_no_nan(cls):
    """Zero weights in the head: gradients are zero, and the map is zero (the front door warns of a constant map).

    Score-CAM has no gradient to tell: all channels keep the same score. Equal weights would show the layer's mean.
    """
    model = toy_cnn()
    with torch.no_grad():
        model.module.head.weight[2] = 0
    assert not cls(model)(batch(), 2).any()
    assert cls(model)(batch(), [2, 1])[1].any()  # the neighbor in the batch keeps its map


def test_score_cam_of_channels_that_are_all_alike_is_what_they_show():
    """Equal scores say nothing of the class where the channels show the same: one channel, or copies of it."""
    model = toy_cnn()
    assert ScoreCAM(model, top_k=1)(batch(), 1).any()
    with torch.no_grad():
        conv, norm = model.module.stage2[:2]
        for parameter in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            parameter[:] = parameter[:1].clone()
    torch.testing.assert_close(ScoreCAM(model)(batch(), 1), LaFAM(model)(batch()))


def test_unit_range_of_a_constant_map_is_zero_even_up_to_rounding():
    flat = torch.full((2, 3, 3), 0.1)
    flat[1, 0, 0] += 1e-8
    flat[1] *= 1 + torch.rand(3, 3) * 1e-7
    assert not unit_range(flat).any()
    assert not unit_range(torch.zeros(1, 2, 2)).any()
    assert unit_range(torch.tensor([[[0.0, 1e-30]]])).equal(torch.tensor([[[0.0, 1.0]]]))


def test_layers_that_do_not_lead_to_the_score_or_do_not_run_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.dead, self.idle, self.head = (
                nn.Conv2d(3, 4, 3),
                nn.Conv2d(4, 2, 1),
                nn.Conv2d(1, 1, 1),
                nn.Linear(4, 5),
            )

        def forward(self, x):
            x = self.a(x)
            self.dead(x)
            return self.head(x.mean((2, 3)))

    layers = {n: Layer(n, "nchw") for n in ("a", "dead", "idle")}
    model = VisionModel(Odd(), Structure("toy", stages=(layers["a"],), cam_layer=layers["a"], head="head"))
    with pytest.raises(ModelError, match="the layer does not lead to it"):
        LayerCAM(model, layer=layers["dead"])(batch(), 1)
    with pytest.raises(LayoutError, match="'idle' did not run"):
        RefineCAM(model, layers=[layers["a"], layers["idle"]])(batch(), 1)
    assert torch.is_grad_enabled()


def test_score_cam_under_autocast_adds_no_rounding_of_its_own():
    """The map under bfloat16 is that of the model's rounded scores and activations, combined in float32.

    It may still lie far from the float32 map: after a layer norm the channels of a token sum to zero, so of nearly
    equal weights almost all cancels, and the rounding of the scores (2⁻⁸ of each) is large beside their differences.
    On this toy the two maps correlate 0.98, more or less by the kernels that a CPU has.
    """
    model, x = toy_vit(), batch()
    layer = model.cam_layer()
    with torch.autocast("cpu", torch.bfloat16):
        maps = ScoreCAM(model)(x, CLASSES)
        features = model.activations(x, [layer])[layer.name].float()
        masks = unit_range(F.interpolate(features, x.shape[-2:], mode="bilinear", align_corners=False))
        with torch.no_grad():
            logits = [model.run(x * masks[:, c, None]).logits for c in range(features.shape[1])]
    scores = torch.stack([each.float()[range(2), CLASSES] for each in logits], 1)
    want = (scores.softmax(1)[:, :, None, None] * features).sum(1).relu()
    torch.testing.assert_close(maps, want, rtol=1e-3, atol=1e-5)
