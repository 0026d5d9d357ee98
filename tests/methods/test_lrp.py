"""LRP for CNNs against its rules written out on dense matrices, against zennit's composites, and its conservation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toys import ToyCNN, batch, toy_cnn, toy_vit

from seewhy.core.preprocess import Preprocess
from seewhy.errors import ModelError, OptionError, RequirementError
from seewhy.methods import LRP, LaFAMLRP
from seewhy.methods.lrp.layer_rules import COMPOSITES
from seewhy.methods.lrp.sums import input_bounds
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Structure
from seewhy.targets import Similarity, embedding_sum

EPSILON, GAMMA = 1e-6, 0.25


class Residual(nn.Module):
    """Convolution, batch norm, ReLU; a residual block written as plain code; an average written as plain code."""

    def __init__(self, bias: bool = True, shortcut: bool = True) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3, bias=bias)
        for bn in (self.bn1, self.bn2):
            bn.running_var.uniform_(0.5, 2)
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            if bias:
                bn.running_mean.normal_()
                nn.init.normal_(bn.bias)
        self.double().eval()

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        shortcut = x
        x = self.bn2(self.conv2(x))
        if self.shortcut:
            x += shortcut
        return self.head(x.relu_().mean((2, 3)))


def wrap(module, rows=4, cols=5, head="head"):
    return VisionModel(module, Structure("test", head=head), preprocess=Preprocess(size=(rows, cols), resize=None))


def image(n=2, rows=4, cols=5):
    return torch.rand(n, 3, rows, cols, generator=torch.Generator().manual_seed(3)).double() * 2 - 1


# ── the rules, written out ────────────────────────────────────────────────────────────────────────────────────────


def dense(conv, bn, shape):
    """Weights (in, out) and bias (out) of a convolution and its batch norm, one unit image after the other."""
    size = int(torch.tensor(shape).prod())
    zero = bn(conv(torch.zeros(1, *shape).double())).flatten()
    rows = [bn(conv(torch.eye(size).double()[i].view(1, *shape))).flatten() - zero for i in range(size)]
    return torch.stack(rows).detach(), zero.detach()


def sign(z):
    return -1.0 if z < 0 else 1.0


def literal(rule, x, W, b, R, low=None, high=None):
    """Relevance of each input, neuron by neuron."""
    out = torch.zeros_like(x)
    for j in range(W.shape[1]):
        w, bias = W[:, j], b[j]
        up, down = w.clamp(min=0), w.clamp(max=0)
        positive = x.clamp(min=0) * up + x.clamp(max=0) * down
        negative = x.clamp(min=0) * down + x.clamp(max=0) * up
        if rule == "epsilon":
            share, total = x * w, (x * w).sum() + bias
        elif rule in ("zplus", "alpha1_beta0"):
            share, total = positive, positive.sum() + bias.clamp(min=0)
        elif rule == "alpha2_beta1":
            plus, minus = positive.sum() + bias.clamp(min=0), negative.sum() + bias.clamp(max=0)
            share = 2 * positive / (plus + EPSILON) - negative / (minus + sign(minus) * EPSILON)
            out += share * R[j]
            continue
        elif rule == "gamma":  # Andéol et al.: positive and negative outputs favor the parts of their own sign
            z = (x * w).sum() + bias
            grown = positive if z > 0 else negative
            share = x * w + GAMMA * grown
            total = z + GAMMA * (grown.sum() + (bias.clamp(min=0) if z > 0 else bias.clamp(max=0)))
        elif rule == "flat":
            share = (w != 0).double()
            total = share.sum()
        elif rule == "box":
            share = x * w - low * up - high * down
            total = share.sum() + bias - bias.clamp(min=0) - bias.clamp(max=0)
        out += share / (total + sign(total) * EPSILON) * R[j]
    return out


def literal_lrp(net, x, R, composite, low, high):
    """(pixels, embedding) relevance of one image; R starts at the logits, or at the embedding if it has 4 entries."""
    first, middle, last = COMPOSITES[composite]
    W1, b1 = dense(net.conv1, net.bn1, x.shape)
    grid = (4, *x.shape[1:])
    W2, b2 = dense(net.conv2, net.bn2, grid)
    h1 = (x.flatten() @ W1 + b1).clamp(min=0)
    branch = h1 @ W2 + b2
    h2 = (h1 + branch).clamp(min=0).view(grid)
    pooled = h2.mean((1, 2))
    if len(R) == 3:
        R = literal(last, pooled, net.head.weight.T, net.head.bias, R)
    cells = h2[0].numel()
    R = torch.stack([h2[c] / cells / (pooled[c] + sign(pooled[c]) * EPSILON) * R[c] for c in range(4)]).flatten()
    total = h1 + branch
    denominator = total + EPSILON * torch.where(total < 0, -1.0, 1.0)
    along, through = h1 / denominator * R, branch / denominator * R
    R = along + literal(middle, h1, W2, b2, through)
    return literal(first, x.flatten(), W1, b1, R, low, high).view(x.shape).detach()


def bounds(model, shape):
    return [b.double().flatten() for b in input_bounds(model, torch.zeros(1, *shape))]


@pytest.mark.parametrize("composite", COMPOSITES)
def test_lrp_is_its_rules_neuron_by_neuron(composite, agree):
    net = Residual()
    model, x = wrap(net), image()
    want = []
    for i, target in enumerate((2, 0)):
        R = torch.zeros(3).double()
        R[target] = net(x)[i, target]
        if composite == "flat":  # with flat rules up to the head, too
            want.append(literal_lrp(net, x[i], R, composite, None, None).sum(0))
        else:
            want.append(literal_lrp(net, x[i], R, composite, *bounds(model, x.shape[1:])).sum(0))
    agree(f"LRP {composite}", "literal rules", LRP(model, composite=composite)(x, [2, 0]), torch.stack(want), 1e-5)


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"])
def test_lafam_lrp_starts_with_the_embedding(composite, agree):
    net = Residual()
    model, x = wrap(net), image()
    kept = {}
    net.head.register_forward_pre_hook(lambda _, args: kept.update(e=args[0].detach()))
    net(x)
    want = [literal_lrp(net, x[i], kept["e"][i], composite, *bounds(model, x.shape[1:])).sum(0) for i in range(2)]
    got = LaFAMLRP(model, composite=composite)(x)
    agree(f"LaFAM-LRP {composite}", "literal rules", got, torch.stack(want), 1e-5)
    agree("LRP of the sum of the embedding", "LaFAM-LRP", LRP(model, composite=composite)(x, embedding_sum()), got)
    headless = nn.Sequential()
    headless.add_module("net", Residual())
    headless.net.load_state_dict(net.state_dict())
    headless.net.head = nn.Identity()
    agree(
        "LaFAM-LRP",
        "of the same model without a head",
        LaFAMLRP(wrap(headless, head=None), composite=composite)(x),
        got,
    )


def test_the_box_is_black_and_white_after_the_preprocessing():
    low, high = input_bounds(toy_cnn(), batch())
    pre = Preprocess()
    for bound, level in ((low, 0.0), (high, 1.0)):
        want = ((level - torch.tensor(pre.mean)) / torch.tensor(pre.std)).view(1, 3, 1, 1).expand(1, 3, 32, 48)
        torch.testing.assert_close(bound, want)
    turned = VisionModel(
        ToyCNN(), Structure("t", head="head"), preprocess=lambda p: 1 - 2 * toy_cnn().preprocess(p.resize((48, 32)))
    )
    low, high = input_bounds(turned, batch())
    assert (low < high).all()


def test_the_box_of_a_network_without_convolutions(agree):
    """R_i = Σ_j (x_i w_ij − low_i w_ij⁺ − high_i w_ij⁻) R_j / Σ_i' (…), for a flattened image and one score."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 1, bias=False)).double().eval()
    model = VisionModel(net, Structure("test", head="1"), preprocess=Preprocess(size=(4, 5), resize=None))
    low, high = (b.double().view(1, 3, 4, 5) for b in input_bounds(model, image()))
    x, w = image(), net[1].weight.detach().view(1, 3, 4, 5)
    z = x * w - low * w.clamp(min=0) - high * w.clamp(max=0)
    want = z / z.sum((1, 2, 3), keepdim=True) * net(x).detach().view(-1, 1, 1, 1)
    agree("LRP", "z^B at a flattened image", LRP(model, composite="epsilon_gamma_box")(x, 0), want.sum(1))
    rows = VisionModel(
        nn.Sequential(nn.Linear(5, 2), nn.Flatten(), nn.Linear(24, 2)),
        Structure("test", head="2"),
        preprocess=Preprocess(size=(4, 5), resize=None),
    )
    assert LRP(rows, composite="epsilon_gamma_box")(image().float(), 0).shape == (2, 4, 5)  # channels are in place
    tokens = VisionModel(
        nn.Sequential(nn.Flatten(2), nn.Linear(20, 2), nn.Flatten(), nn.Linear(6, 2)),
        Structure("test", head="3"),
        preprocess=Preprocess(size=(4, 5), resize=None),
    )
    assert LRP(tokens, composite="epsilon_gamma_box")(image().float(), 0).shape == (2, 4, 5)
    with pytest.raises(ModelError, match="epsilon_plus_flat"):
        LRP(wrap(nn.Flatten(), head=None), composite="epsilon_gamma_box")(image().float(), embedding_sum())


# ── against zennit's own way: hooks on modules, canonizers ───────────────────────────────────────────────────────


def zennit_map(module, x, target, composite, canonizer, model):
    from zennit import composites

    low, high = (b.to(x) for b in input_bounds(model, x))
    made = {
        "epsilon_plus_flat": lambda: composites.EpsilonPlusFlat(canonizers=[canonizer]),
        "epsilon_gamma_box": lambda: composites.EpsilonGammaBox(low, high, canonizers=[canonizer]),
        "epsilon_alpha2_beta1_flat": lambda: composites.EpsilonAlpha2Beta1Flat(canonizers=[canonizer]),
    }[composite]()
    x = x.clone().requires_grad_()
    with made.context(module) as hooked:
        out = hooked(x)
        start = torch.zeros_like(out)
        for i, t in enumerate(target):
            start[i, t] = out[i, t].detach()
        (found,) = torch.autograd.grad(out, x, start)
    return found.sum(1)


def torchvision_resnets():
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    torch.manual_seed(0)
    for kind in (BasicBlock, Bottleneck):
        net = ResNet(kind, [1, 1, 1, 1])
        net.layer3 = net.layer4 = nn.Identity()  # wide and slow
        net.fc = nn.Linear(128 * kind.expansion, 4)
        yield lively(net)


def lively(net):
    """Batch norms that do something, double precision."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.bias, 0, 0.1)
            m.eps = 1e-12  # zennit's merged batch norms still divide by √(1 + eps): 4e-5 over a ResNet
    return net.double().eval()


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"])
def test_resnets_of_torchvision_are_as_with_zennits_canonizer(composite, agree):
    pytest.importorskip("torchvision")
    from zennit.torchvision import ResNetCanonizer

    x = image(2, 16, 24)
    for net in torchvision_resnets():
        model = wrap(net, 16, 24, head="fc")
        got = LRP(model, composite=composite)(x, [1, 3])
        want = zennit_map(net, x, [1, 3], composite, ResNetCanonizer(), model)
        agree(f"LRP {composite}, ResNet", "zennit", got, want, 1e-5)


# ── conservation ─────────────────────────────────────────────────────────────────────────────────────────────────


LOSSY = ("zplus", "alpha1_beta0", "alpha2_beta1")
"""Rules that lose what comes to a neuron without a part of the wanted sign: the paper's own property."""


@pytest.mark.parametrize("composite", [c for c in COMPOSITES if c not in LOSSY])
def test_without_biases_the_pixels_sum_to_the_score(composite, agree):
    lossy = bool({*COMPOSITES[composite]} & {*LOSSY})
    model, x = wrap(Residual(bias=False, shortcut=not lossy)), image()
    score = model.module(x)[:, 1]
    total = LRP(model, composite=composite)(x, 1).double().sum((1, 2))
    # ε itself keeps a little where a denominator is small
    agree(f"LRP {composite}: Σ relevance", "the score, no biases", total, score, 1e-3)


def resnets():
    """ResNets of two libraries, without any bias; torchvision's is compared with zennit above."""
    torch.manual_seed(0)
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[3, 3], layer_type="basic")
    yield "timm", timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=4), "fc"
    yield "transformers", Pooled(transformers.ResNetModel(config)), "head"


class Pooled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.inner(x).pooler_output.flatten(1))


@pytest.mark.parametrize(("composite", "tolerance"), [("epsilon_plus_flat", 0.05), ("epsilon_gamma_box", 1e-3)])
def test_relevance_does_not_double_at_residual_sums(composite, tolerance, agree):
    """Pitfall 8: 217 instead of 1. Any library's ResNet; sums, batch norms and poolings as each writes them."""
    x = image(2, 32, 32)
    for name, net, head in resnets():
        for m in net.double().eval().modules():
            if getattr(m, "bias", None) is not None:
                nn.init.zeros_(m.bias)
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, 0.5, 1.5)
                m.running_mean.zero_()
        score = net(x)[:, 1]
        total = LRP(wrap(net, 32, 32, head=head), composite=composite)(x, 1).double().sum((1, 2))
        agree(f"LRP {composite}: Σ relevance, {name} ResNet", "the score, no biases", total, score, tolerance)


class Modern(nn.Module):
    """SiLU, a squeeze-and-excitation gate, a layer scale, a layer norm, a clamp, a dense block's concatenation."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.squeeze, self.scale = nn.Conv2d(4, 4, 1), nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.norm, self.head = nn.LayerNorm(4, elementwise_affine=False), nn.Linear(8, 3, bias=False)
        self.double().eval()

    def forward(self, x):
        x = nn.functional.silu(self.conv1(x))
        gated = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        y = torch.clamp(x + self.scale * self.conv2(gated), -1, 1)
        y = self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) / 2
        return self.head(nn.functional.adaptive_avg_pool2d(torch.cat([y, x], 1), 1).flatten(1))


@pytest.mark.parametrize("composite", ["epsilon_gamma_box", "epsilon"])
def test_gates_scales_norms_and_smooth_activations_conserve(composite, agree):
    model, x = wrap(Modern()), image()
    total = LRP(model, composite=composite)(x, 1).double().sum((1, 2))
    agree(f"LRP {composite}: Σ relevance, SiLU, gates, norms", "the score", total, model.module(x)[:, 1], 1e-3)


def test_biases_keep_a_share_and_the_rest_arrives():
    model, x = wrap(Residual()), image()
    score = model.module(x)[:, 1]
    kept = 1 - LRP(model)(x, 1).double().sum((1, 2)) / score
    assert (kept.abs() > 1e-3).all()


class Normalizing(nn.Module):
    """Normalizes inside, in one of several spellings, before another model."""

    def __init__(self, model, spelling):
        super().__init__()
        self.model, self.spelling = model, spelling
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).double())
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1).double())

    def before(self, x):
        if self.spelling == "a buffer":
            return (x - self.mean) / self.std
        if self.spelling == "numbers":
            return -2 + 4 * x
        if self.spelling == "in place":
            return x.clone().sub_(self.mean).div_(self.std)
        if self.spelling == "turned":
            return (1 - x) * 4 - 2
        return torch.cat(
            [x[:, c : c + 1] * (s / 0.5) + (m - 0.5) / 0.5 for c, (m, s) in enumerate(((0.4, 0.2),) * 3)], 1
        )

    def forward(self, x):
        return self.model(self.before(x))


@pytest.mark.parametrize("spelling", ["a buffer", "numbers", "in place", "turned", "channel by channel"])
@pytest.mark.parametrize(
    "composite", ["epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat", "epsilon"]
)
def test_a_constant_takes_no_share(composite, spelling, agree):
    """A model that normalizes inside gets the map of the same model on the normalized image, z^B bounds included."""
    net = Residual()
    both, x = Normalizing(net, spelling).eval(), image() / 2 + 0.5
    pixels = Preprocess(size=(4, 5), resize=None, mean=(0, 0, 0), std=(1, 1, 1))
    inside = VisionModel(both, Structure("test", head="model.head"), preprocess=pixels)
    outside = VisionModel(
        net, Structure("test", head="head"), preprocess=lambda p: both.before(pixels(p)[None].double())[0]
    )
    for cls in (LRP, LaFAMLRP):
        got, want = (cls(m, composite=composite)(b, 2) for m, b in ((inside, x), (outside, both.before(x))))
        agree(f"{cls.card.title} {composite}, normalized inside", "normalized outside", got, want)


def test_a_shift_between_layers_takes_no_share(agree):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.head, self.shift = nn.Conv2d(3, 4, 1), nn.Linear(4, 2), nn.Parameter(torch.randn(4, 1, 1))
            self.double()

        def forward(self, x):
            return self.head((self.one(x) + self.shift).mean((2, 3)))

    shifted = Shifted()
    model, x = wrap(shifted), image()
    h = shifted.one(x) + shifted.shift
    R = literal(
        "epsilon", h.mean((2, 3))[0], shifted.head.weight.T, shifted.head.bias, shifted(x)[0] * torch.tensor([0, 1])
    )
    R = h[0] / h[0].sum((1, 2), keepdim=True) * R.view(4, 1, 1)
    agree("LRP", "flat below a shift", LRP(model, composite="epsilon_plus_flat")(x, 1)[0], R.sum(0), 1e-5)


# ── what cannot be ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_logits_of_a_run_are_the_models_own():
    model, x, seen = toy_cnn(), batch(), []
    LRP(model)(x, lambda logits: seen.append(logits.detach()) or logits[:, 1])
    assert torch.equal(seen[0], model.module.eval()(x))


def test_any_target_starts_with_its_output_times_its_slope(agree):
    model, x, v = toy_cnn(), batch(), torch.randn(8)
    parts = sum(v[i] * LRP(model)(x, Similarity(torch.eye(8)[i])) for i in range(8))
    agree("LRP of a concept", "its sum over the embedding", LRP(model)(x, Similarity(v)), parts, 1e-5)


class Inside(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.conv, self.head, self.what = nn.Conv2d(3, 4, 1), nn.Linear(4, 2), what

    def forward(self, x):
        return self.head(self.what(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("softmax", lambda x: x.softmax(1)),
        ("matmul", lambda x: x @ x),
        ("scaled_dot_product_attention", lambda x: nn.functional.scaled_dot_product_attention(x, x, x)),
    ],
)
def test_what_no_rule_fits_is_an_error(name, what):
    with pytest.raises(ModelError, match=f"no rule for {name}.*input_x_gradient"):
        LRP(wrap(Inside(what)))(image(2, 4, 4).float(), 1)


def test_a_convolution_before_two_batch_norms_is_an_error():
    one, two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    with pytest.raises(ModelError, match="two batch norms"):
        LRP(wrap(Inside(lambda x: one(x) + two(x)).eval()))(image().float(), 1)


def test_a_score_of_zero_is_a_map_of_zeros():
    model = toy_cnn()
    nn.init.zeros_(model.module.head.weight)
    nn.init.zeros_(model.module.head.bias)
    assert LRP(model)(batch(), 1).abs().max() == 0


def test_wrong_options_and_models():
    with pytest.raises(OptionError, match="epsilon_gamma_box"):
        LRP(toy_cnn(), composite="magic")
    with pytest.raises(RequirementError, match="attn_lrp"):
        LRP(toy_vit())
    for pool in (WindowAttention(4, 4), nn.MultiheadAttention(4, 2)):
        with pytest.raises(RequirementError, match=f"has {type(pool).__name__} inside.*these can: .*input_x_gradient"):
            LaFAMLRP(wrap(Inside(pool)))


class WindowAttention(nn.Linear):
    """What Swin calls its attention."""
