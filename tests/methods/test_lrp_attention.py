"""AttnLRP and the methods made of attention gradients, against every equation written out on the toy ViT."""

from __future__ import annotations

import copy
import dataclasses

import literal
import literal_lrp
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import batch, toy_cnn, toy_vit

from seewhy.errors import ModelError, OptionError, RequirementError
from seewhy.methods import AttnLRP, PartialLRP, RelevancePropagation, TransformerAttribution
from seewhy.methods.attention.base import ATTENTION_RULES
from seewhy.methods.lrp.chefer_rules import CheferRules
from seewhy.methods.lrp.token_rules import TokenRules
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Block
from seewhy.targets import ClassTarget

VITS = {"class token": {}, "registers": {"prefix": 5, "depth": 2}, "four heads": {"heads": 4, "depth": 2}}
CLASSES = [3, 1]


@pytest.fixture(params=VITS.values(), ids=VITS.keys())
def model(request):
    return lively(toy_vit(**request.param))


def lively(model):
    """Norms and biases that do something, double precision, no gradients of parameters."""
    for m in model.module.modules():
        if isinstance(m, nn.LayerNorm):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.2)
    model.module.double().requires_grad_(False)
    return model


def grid(model, rows):
    return literal.on_grid(rows, model.module.prefix, 4, 6)


# ── AttnLRP ──────────────────────────────────────────────────────────────────────────────────────────────────────


PROPOSITIONS = {"rule": "epsilon", "attention": "shared"}


def test_attn_lrp_is_the_propositions_step_by_step(model, x, agree):
    want = literal_lrp.relevance(model.module, x, CLASSES, "logit").pixels.sum(1)
    agree("AttnLRP", "literal propositions", AttnLRP(model, **PROPOSITIONS)(x, CLASSES), want, 1e-5)


def test_a_large_epsilon_absorbs(model, x, agree):
    want = literal_lrp.relevance(model.module, x, CLASSES, "logit", eps=0.1).pixels.sum(1)
    agree("AttnLRP, ε = 0.1", "literal", AttnLRP(model, epsilon=0.1, **PROPOSITIONS)(x, CLASSES), want, 1e-5)


@pytest.mark.parametrize(("attention", "rule"), [("constant", "gamma"), ("shared", "gamma"), ("constant", "epsilon")])
def test_attn_lrp_is_the_authors_recipe_for_vits_step_by_step(model, x, attention, rule, agree):
    """γ in the patch embedding and, another one, in linear layers; ε in attention, whose matrices are constants."""
    literal_rule = ("gamma", 0.3, 2.0) if rule == "gamma" else rule
    want = literal_lrp.relevance(model.module, x, CLASSES, "logit", literal_rule, constant=attention == "constant")
    got = AttnLRP(model, rule=rule, attention=attention, gamma_conv=2.0, gamma_linear=0.3)(x, CLASSES)
    agree(f"AttnLRP {rule}, attention {attention}", "literal rules", got, want.pixels.sum(1), 1e-5)


class Normalizing(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x - 0.4) / 0.2)


@pytest.mark.parametrize("rule", ["gamma", "epsilon"])
def test_a_normalization_inside_takes_no_share(rule, x, agree):
    outside = lively(toy_vit())
    inside = VisionModel(Normalizing(outside.module), prefixed(outside.structure, "model."))
    got, want = AttnLRP(inside, rule=rule)(x * 0.2 + 0.4, CLASSES), AttnLRP(outside, rule=rule)(x, CLASSES)
    agree("AttnLRP, normalized inside", "normalized outside", got, want, 1e-5)


def prefixed(structure, prefix):
    blocks = tuple(Block(prefix + b.name, prefix + b.norm1, prefix + b.attention) for b in structure.blocks)
    return dataclasses.replace(structure, stages=(), cam_layer=None, blocks=blocks, head=prefix + "head")


def without_biases(model):
    for m in model.module.modules():
        if getattr(m, "bias", None) is not None:
            nn.init.zeros_(m.bias)
    nn.init.zeros_(model.module.pos_embed)
    return model


def test_pixels_and_what_is_lost_on_the_way_sum_to_the_score(model, x, agree):
    """Without biases only the class token and the softmax keep something."""
    without_biases(model)
    found = literal_lrp.relevance(model.module, x, CLASSES, "logit", eps=1e-12)
    kept = found.tokens[:, : model.module.prefix].sum((1, 2)) + found.lost
    total = AttnLRP(model, epsilon=0.0, **PROPOSITIONS)(x, CLASSES).double().sum((1, 2)) + kept
    score = model.module(x)[[0, 1], CLASSES]
    agree("AttnLRP: Σ pixels + prefix tokens + softmax", "the score, no biases", total, score, 1e-5)


def test_without_attention_of_the_image_all_that_is_lost_is_lost_in_the_matrices(model, x, agree):
    """q = k = 0: each matrix gets half of what its product got, and its softmax passes nothing on."""
    without_biases(model)
    nn.init.zeros_(model.module.tokens)
    for block in model.module.blocks:
        block.attn.qkv.weight[:32] = 0
    method = TransformerAttribution(model, rule="epsilon", epsilon=0.0)
    rules = TokenRules(epsilon=0.0)
    attended = method.attend(x, ClassTarget(tuple(CLASSES)), rules)
    score = model.module(x)[[0, 1], CLASSES]
    in_matrices = sum(r.double().sum((1, 2, 3)) for r in method.relevance(attended, rules)) * score
    total = AttnLRP(model, epsilon=0.0, **PROPOSITIONS)(x, CLASSES).double().sum((1, 2)) + in_matrices
    agree("AttnLRP: Σ pixels + matrices", "the score, no biases", total, score, 1e-5)


class Unfused(nn.Module):
    """The toy's attention as older models write it: matrix and softmax in plain code."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        q, k, v = self.inner.split(x)
        attn = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.inner.proj((attn @ v).transpose(1, 2).flatten(2))


class Torch(nn.Module):
    """The toy's attention as `nn.MultiheadAttention`."""

    def __init__(self, inner):
        super().__init__()
        self.mha = nn.MultiheadAttention(inner.proj.in_features, inner.num_heads, batch_first=True).double()
        self.mha.load_state_dict(
            {
                "in_proj_weight": inner.qkv.weight,
                "in_proj_bias": inner.qkv.bias,
                "out_proj.weight": inner.proj.weight,
                "out_proj.bias": inner.proj.bias,
            }
        )

    def forward(self, x):
        return self.mha(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("kind", [Unfused, Torch])
@pytest.mark.parametrize("cls", [AttnLRP, RelevancePropagation, TransformerAttribution, PartialLRP])
def test_however_attention_is_written(cls, kind, x, agree):
    fused = lively(toy_vit())
    other = copy.deepcopy(fused)
    for block in other.module.blocks:
        block.attn = kind(block.attn)
    agree(cls.card.title, f"attention as {kind.__name__}", cls(other)(x, CLASSES), cls(fused)(x, CLASSES), 1e-5)


# ── single rules ─────────────────────────────────────────────────────────────────────────────────────────────────


def down(f, x, plain=False):
    """(f(x), what comes down to x from R = f(x), that is G = 1)."""
    rules = TokenRules(epsilon=0.0)
    leaf = x.clone().requires_grad_()
    with rules:
        y = f(leaf.clone())
    rules.plain = plain
    return y.detach(), torch.autograd.grad(y, leaf, torch.ones_like(y))[0]


SMOOTH = {
    "gelu": F.gelu,
    "silu": F.silu,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu by tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * torch.pow(x, 3)))),
    "in place": lambda x: F.silu(x, inplace=True),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_activations_pass_relevance_on_however_they_are_written(name, agree):
    x = torch.randn(50, dtype=torch.float64)
    y, slope = down(SMOOTH[name], x)
    agree(f"identity rule, {name}", "R_x = R_f", x * slope, y)
    assert down(F.gelu, torch.zeros(3))[1].abs().max() == 0


def test_root_mean_square_norms_conserve_and_so_do_products(agree):
    x, w = torch.randn(4, 8, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    for f in (
        lambda x: F.rms_norm(x, (8,), w),
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)),
        lambda x: x[:2] * x[2:].exp(),
        lambda x: x[:, :4] @ x[:, 4:].T,
        lambda x: x * nn.Parameter(w),
    ):
        y, slope = down(f, x)
        shares = (x * slope)[:2] if y.shape == (2, 8) else x * slope
        agree(
            "Σ R of norms, gates and products", "Σ R above", shares.sum(), y.sum() / 2 if y.shape == (2, 8) else y.sum()
        )


def test_fused_attention_outside_of_blocks(agree):
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    f = lambda x: F.scaled_dot_product_attention(x[..., :2], x[..., :2], x[..., 2:])  # noqa: E731
    g = lambda x: (x[..., :2] @ x[..., :2].mT * 2**-0.5).softmax(-1) @ x[..., 2:]  # noqa: E731
    agree("rules of fused attention", "of its steps", down(f, x)[1], down(g, x)[1])


def test_while_plain_the_backward_is_the_true_gradient(model, x, agree):
    rules = TokenRules("zplus")
    attended = TransformerAttribution(model, rule="zplus").attend(x, ClassTarget(tuple(CLASSES)), rules)
    rules.plain = True
    _, want = literal_lrp.true_gradients(model.module, x, CLASSES)
    for got, grad in zip(attended.gradients(), want, strict=True):
        agree("∇A beside the rules", "literal gradient", got, grad)


# ── the three maps ───────────────────────────────────────────────────────────────────────────────────────────────


def product(weighted, start=0):
    """Class token's row of the product of I + mean_heads max(0, ·), image by image."""
    rows = []
    for image in range(2):
        R = torch.eye(weighted[0].shape[-1], dtype=torch.float64)
        for matrices in weighted[start:]:
            mixed = sum(m.clamp(min=0) for m in matrices[image]) / len(matrices[image])
            R = R + mixed @ R
        rows.append(R[0])
    return torch.stack(rows)


def test_relevance_propagation_is_its_recursion(model, x, agree):
    matrices, grads = literal_lrp.true_gradients(model.module, x, CLASSES)
    want = grid(model, product([a * g for a, g in zip(matrices, grads, strict=True)]))
    agree("Relevance propagation", "literal R ← R + Ā R", RelevancePropagation(model)(x, CLASSES), want)


def relevance_by(rule, vit, x):
    if rule.startswith("chefer"):
        return literal_lrp.chefer(vit, x, CLASSES, rule == "chefer_original")
    return literal_lrp.relevance(vit, x, CLASSES, "one", rule).matrices


@pytest.mark.parametrize("rule", ATTENTION_RULES)
@pytest.mark.parametrize("start_block", [0, 1])
def test_transformer_attribution_is_its_product(model, x, rule, start_block, agree):
    grads = literal_lrp.true_gradients(model.module, x, CLASSES)[1]
    relevance = relevance_by(rule, model.module, x)
    want = grid(model, product([g * r for g, r in zip(grads, relevance, strict=True)], start_block))
    got = TransformerAttribution(model, start_block=start_block, rule=rule)(x, CLASSES)
    agree(f"Transformer attribution, {rule}", "literal Π (I + Ā)", got, want, 1e-5)


@pytest.mark.parametrize("rule", ATTENTION_RULES)
def test_partial_lrp_is_the_last_matrix_relevance(model, x, rule, agree):
    want = grid(model, relevance_by(rule, model.module, x)[-1].clamp(min=0).mean(1)[:, 0])
    agree(f"Partial LRP, {rule}", "literal rules", PartialLRP(model, rule=rule)(x, CLASSES), want, 1e-5)


@pytest.mark.parametrize("original", [False, True])
def test_chefers_rules_have_gates_and_averages(original, agree):
    """x σ(x) is an activation: relevance passes; an average shares out in proportion."""
    x, R = torch.randn(3, 8).double(), torch.rand(3, 8).double()
    leaf = x.clone().requires_grad_()
    with CheferRules(original):
        y = leaf.clone() * torch.sigmoid(1.7 * leaf)
        mean = leaf.clone().mean(1)
    agree("Chefer's rules", "R passes x σ(x)", torch.autograd.grad(y, leaf, R)[0], R)
    want = x / x.sum(1, keepdim=True) * R[:, :1]
    agree("Chefer's rules", "x / Σ x of an average", torch.autograd.grad(mean, leaf, R[:, 0])[0], want, 1e-5)
    with CheferRules(original), pytest.raises(ModelError, match="no rule for mul"):
        torch.autograd.grad((leaf.clone() * leaf.tanh()).sum(), leaf)


def test_a_score_of_zero_is_a_map_of_zeros(x):
    model = toy_vit()
    nn.init.zeros_(model.module.head.weight)
    nn.init.zeros_(model.module.head.bias)
    for cls in (AttnLRP, RelevancePropagation, TransformerAttribution, PartialLRP):
        assert cls(model)(batch(), 1).abs().max() == 0


def test_wrong_options_and_models():
    with pytest.raises(OptionError, match="start_block=3 leaves no block"):
        TransformerAttribution(toy_vit(), start_block=3)
    for cls in (AttnLRP, RelevancePropagation, TransformerAttribution, PartialLRP):
        with pytest.raises(RequirementError, match="attention"):
            cls(toy_cnn())
    with pytest.raises(RequirementError, match="class token"):
        RelevancePropagation(toy_vit(prefix=0, pool="mean"))


# ── against the authors' package ─────────────────────────────────────────────────────────────────────────────────


def relevance_by_ours(f, *inputs):
    """What each input gets from R = f ⊙ 1, 2, 3 …: value times what comes down."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with TokenRules(epsilon=1e-9):
        y = f(*(leaf.clone() for leaf in leaves))
    return [x * g for x, g in zip(inputs, torch.autograd.grad(y, leaves, counting(y)), strict=True)]


def counting(y):
    return torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view_as(y)


def relevance_by_lxt(f, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = f(*leaves)
    return torch.autograd.grad(y, leaves, y.detach() * counting(y))


def test_single_rules_are_those_of_lxt(agree):
    """Not among the test requirements: it would bring accelerate and bitsandbytes. `pip install --no-deps lxt` does."""
    lxt = pytest.importorskip("lxt.explicit.functional")
    x, y = (torch.randn(2, 6, 8, dtype=torch.float64) for _ in range(2))
    w, W, b = (torch.randn(*shape, dtype=torch.float64) for shape in ((8,), (5, 8), (5,)))
    pairs = {
        "softmax": (lambda x: x.softmax(-1), lambda x: lxt.softmax(x, -1), (x,)),
        "linear ε": (lambda x: F.linear(x, W, b), lambda x: lxt.linear_epsilon(x, W, b, 1e-9), (x,)),
        "matmul": (lambda a, b: a @ b.mT, lambda a, b: lxt.matmul(a, b.mT, False, 1e-9), (x, y)),
        "layer norm": (lambda x: F.layer_norm(x, (8,), w, w, 1e-5), lambda x: lxt.layer_norm(x, w, w, 1e-5), (x,)),
        "sum": (lambda a, b: a + b, lambda a, b: lxt.add2(a, b, False, 1e-9), (x, y)),
        "product": (lambda a, b: a * b, lambda a, b: lxt.mul2(a, b), (x, y)),
    }
    for name, (ours, theirs, inputs) in pairs.items():
        for got, want in zip(relevance_by_ours(ours, *inputs), relevance_by_lxt(theirs, *inputs), strict=True):
            agree(f"rule of {name}", "lxt", got, want, 1e-4)  # lxt's ε in layer norms is 1e-6
