"""Each rule of LRP for each kind of layer against zennit, what each rule runs, and LRP without zennit at all."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import batch, toy_cnn

from seewhy.methods import LRP
from seewhy.methods.lrp.layer_rules import LayerRules

EPSILON, GAMMA = 1e-6, 0.25
COMPOSITE_OF = {
    **{rule: rule for rule in ("epsilon", "gamma", "zplus", "alpha1_beta0", "alpha2_beta1", "flat")},
    "box": "epsilon_gamma_box",
}
LAYERS = {
    "conv": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "conv without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=False),
    "stride": lambda: nn.Conv2d(4, 6, 3, stride=(2, 3), padding=(1, 0)),
    "dilation": lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False),
    "replicate": lambda: nn.Conv2d(4, 6, (3, 2), padding=1, padding_mode="replicate"),
    "same": lambda: nn.Conv2d(4, 6, (2, 3), padding="same"),
    "conv1d": lambda: nn.Conv1d(4, 6, 3, padding=1),
    "linear": lambda: nn.Linear(8, 5),
    "linear without bias": lambda: nn.Linear(8, 5, bias=False),
    "linear of tokens": lambda: nn.Linear(8, 5),
}
SHAPES = {"conv1d": (2, 4, 7), "linear": (2, 8), "linear without bias": (2, 8), "linear of tokens": (2, 3, 8)}


def case(kind, signs):
    """A layer in double precision with an output that is zero by its weights, and an input with zeros."""
    torch.manual_seed(len(kind))
    layer = LAYERS[kind]().double()
    with torch.no_grad():
        layer.weight[0] = 0
        if layer.bias is not None:
            layer.bias[0] = 0
    x = torch.randn(SHAPES.get(kind, (2, 4, 6, 7)), dtype=torch.float64)
    return layer, x.relu() if signs == "positive" else torch.where(x.abs() < 0.2, 0.0, x)


def bounds(x):
    """Lowest and highest values, different for each channel (of images only)."""
    channels = x.shape[1] if x.ndim == 4 else 1
    low = -3 - torch.arange(channels, dtype=torch.float64).view(1, -1, *[1] * (x.ndim - 2))
    return low, 2.5 - low


def by_us(module, x, relevance, rule, epsilon=EPSILON):
    leaf = x.clone().requires_grad_()
    with LayerRules(COMPOSITE_OF[rule], epsilon, GAMMA, bounds(x)):
        out = module(leaf.clone())
    return torch.autograd.grad(out, leaf, relevance)[0]


def by_zennit(layer, x, relevance, rule):
    rules = pytest.importorskip("zennit.rules")
    low, high = bounds(x)
    hook = {
        "epsilon": lambda: rules.Epsilon(epsilon=EPSILON),
        "gamma": lambda: rules.Gamma(gamma=GAMMA, stabilizer=EPSILON),
        "zplus": lambda: rules.ZPlus(stabilizer=EPSILON),
        "alpha1_beta0": lambda: rules.AlphaBeta(alpha=1.0, beta=0.0, stabilizer=EPSILON),
        "alpha2_beta1": lambda: rules.AlphaBeta(alpha=2.0, beta=1.0, stabilizer=EPSILON),
        "flat": lambda: rules.Flat(stabilizer=EPSILON),
        "box": lambda: (
            rules.ZBox(low.squeeze().expand_as(x), high.squeeze().expand_as(x), stabilizer=EPSILON)
            if x.ndim == 2
            else rules.ZBox(low.expand_as(x), high.expand_as(x), stabilizer=EPSILON)
        ),
    }[rule]()
    handles = hook.register(layer)
    leaf = x.clone().requires_grad_()
    out = layer(leaf)
    (found,) = torch.autograd.grad(out, leaf, relevance)
    handles.remove()
    return found


@pytest.mark.parametrize("signs", ["positive", "both"])
@pytest.mark.parametrize("rule", COMPOSITE_OF)
def test_each_rule_is_zennits_for_each_kind_of_layer(rule, signs, agree):
    for kind in LAYERS:
        layer, x = case(kind, signs)
        if rule == "box" and x.ndim == 3:
            continue  # refused: the channels of the image cannot be told
        relevance = torch.randn_like(layer(x))
        got, want = by_us(layer, x, relevance, rule), by_zennit(layer, x, relevance, rule)
        agree(f"rule {rule}, {kind}", "zennit", got, want, 1e-12)


@pytest.mark.parametrize("rule", COMPOSITE_OF)
@pytest.mark.parametrize("kind", ["conv", "conv without bias", "linear"])
def test_a_merged_batch_norm_is_zennits_rule_for_the_merged_weights(rule, kind, agree):
    layer, x = case(kind, "both")
    norm = (nn.BatchNorm1d(5) if kind == "linear" else nn.BatchNorm2d(6)).double().eval()
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)  # weights of both signs
    norm.running_var.uniform_(0.5, 2)
    merged = LAYERS[kind.removesuffix(" without bias")]().double()
    if kind == "conv without bias":
        merged = nn.Conv2d(4, 6, 3).double()
    with torch.no_grad():
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        merged.weight.copy_(layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        own = 0 if layer.bias is None else layer.bias
        merged.bias.copy_((own - norm.running_mean) * scale + norm.bias)
    relevance = torch.randn_like(layer(x))
    got = by_us(nn.Sequential(layer, norm), x, relevance, rule)
    agree(f"rule {rule}, {kind} and batch norm", "zennit", got, by_zennit(merged, x, relevance, rule), 1e-11)


@pytest.mark.parametrize("rule", COMPOSITE_OF)
def test_an_output_whose_parts_cancel_is_zennits_too(rule, agree):
    """z = 1 · 1 − 1 · 1 = 0 has no sign for γ; the second output keeps the reference from being zero."""
    layer, x = nn.Linear(3, 2, bias=False).double(), torch.tensor([[1.0, 1.0, 0.5]], dtype=torch.float64)
    layer.weight = nn.Parameter(torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.25, -0.5]], dtype=torch.float64))
    relevance = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    assert layer(x)[0, 0] == 0
    got, want = by_us(layer, x, relevance, rule), by_zennit(layer, x, relevance, rule)
    agree(f"rule {rule}, an output of zero", "zennit", got, want, 1e-12)


def test_epsilon_zero_is_lrp_0(agree):
    """x ⊙ (Wᵀ (R / z)), written out."""
    layer, x = case("linear", "both")
    with torch.no_grad():
        layer.bias[0] = 1.0
    relevance = torch.randn(2, 5, dtype=torch.float64)
    want = x * ((relevance / (x @ layer.weight.T + layer.bias)) @ layer.weight)
    agree("rule epsilon, ε = 0", "LRP-0", by_us(layer, x, relevance, "epsilon", epsilon=0.0), want, 1e-12)


def test_batch_norms_of_tokens_are_not_merged_into_a_linear_layer(agree):
    """Their channels are the tokens: relevance passes them as it is."""
    layer, norm = nn.Linear(8, 3).double(), nn.BatchNorm1d(3).double().eval()
    nn.init.uniform_(norm.weight, 0.5, 2)
    x, relevance = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    got = by_us(nn.Sequential(layer, norm), x, relevance, "epsilon")
    agree("rule epsilon, a norm of tokens", "without the norm", got, by_us(layer, x, relevance, "epsilon"), 1e-12)


# ── what a rule runs ─────────────────────────────────────────────────────────────────────────────────────────────


class Convolutions(TorchDispatchMode):
    """Counts the images that convolutions take forward and back."""

    def __init__(self):
        super().__init__()
        self.forward, self.back = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if name == "aten::convolution":
            self.forward[len(args[0])] += 1
        elif name == "aten::convolution_backward":
            assert list(args[-1]) == [True, False, False], "the gradient of a parameter is computed"
            self.back[len(args[0])] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("rule", "signs", "forward", "back"),
    [
        ("epsilon", "both", {}, 1),
        ("gamma", "positive", {2: 1}, 2),
        ("gamma", "both", {2: 2}, 3),
        ("zplus", "positive", {2: 1}, 1),
        ("zplus", "both", {2: 2}, 2),
        ("alpha2_beta1", "positive", {2: 2}, 2),
        ("alpha2_beta1", "both", {2: 4}, 4),
        ("flat", "both", {2: 1}, 1),
        ("box", "both", {2: 1, 1: 1}, 2),
    ],
)
def test_no_rule_runs_more_than_its_equation_has(rule, signs, forward, back):
    """The model's own forward is not repeated; with a batch norm after it neither."""
    layer, x = case("conv", signs)
    for module in (layer, nn.Sequential(layer, nn.BatchNorm2d(6).double().eval())):
        with Convolutions() as counted:
            by_us(module, x, torch.ones_like(layer(x)), rule)
        counted.forward[2] -= 2  # ours above, for the shape, and the model's
        assert (+counted.forward, counted.back) == (forward, {2: back})


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "box"])
def test_an_output_that_is_overwritten_in_place_is_computed_again(rule, agree):
    layer, x = case("conv", "both")
    relevance = torch.rand_like(layer(x))
    for overwrite in (torch.relu_, lambda z: torch.relu_(z.view(-1)).view_as(z), lambda z: z.mul_(3.0)):
        plain = by_us(lambda x, f=overwrite: f(layer(x).clone()), x, relevance, rule)
        agree(f"rule {rule}", "not in place", by_us(lambda x, f=overwrite: f(layer(x)), x, relevance, rule), plain, 0)


def test_half_precision_is_divided_in_single(agree):
    layer, x = case("conv", "both")
    relevance = torch.rand_like(layer(x)).bfloat16()
    layer, x = layer.bfloat16(), x.bfloat16()
    for rule in COMPOSITE_OF:
        got = by_us(layer, x, relevance, rule)
        assert got.dtype == torch.bfloat16
        want = by_us(layer.float(), x.float(), relevance.float(), rule)
        agree(f"rule {rule} in bfloat16", "in float32", got, want, 2**-8)
        layer = layer.bfloat16()


# ── without zennit and torchvision ───────────────────────────────────────────────────────────────────────────────

ALONE = """
import sys
sys.modules["zennit"] = sys.modules["torchvision"] = None
sys.path[:0] = PATHS
from toys import batch, toy_cnn
from seewhy.methods import LRP, LaFAMLRP
total = LRP(toy_cnn(), composite="epsilon_gamma_box")(batch(), 1).double().sum().item()
print(total, bool(LaFAMLRP(toy_cnn())(batch()).any()))
"""


def test_lrp_needs_neither_zennit_nor_torchvision():
    script = ALONE.replace("PATHS", repr([path for path in sys.path if path]))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, found = done.stdout.split()
    want = LRP(toy_cnn(), composite="epsilon_gamma_box")(batch(), 1).double().sum().item()
    assert (float(total), found) == (pytest.approx(want, rel=1e-5), "True")
