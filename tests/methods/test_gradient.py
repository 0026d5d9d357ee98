"""The gradient family against its equations and captum, in float64."""

from __future__ import annotations

import pytest
import torch
from captum.attr import (
    InputXGradient as TheirInputXGradient,
    IntegratedGradients as TheirIntegratedGradients,
    NoiseTunnel,
    Saliency as TheirSaliency,
)
from PIL import Image
from toys import batch, toy_cnn

import seewhy
from seewhy.bench.manifest import describe_method
from seewhy.checks.core import few_repetitions
from seewhy.errors import OptionError
from seewhy.methods import METHODS, InputXGradient, IntegratedGradients, Saliency, SmoothGrad
from seewhy.methods.baselines import BASELINE_IMAGES, gaussian_blur
from seewhy.methods.gradient.integrated_gradients import quadrature

CLASSES = [3, 1]


def gradient(model, x):
    x = x.clone().requires_grad_()
    logits = model.module(x)
    return torch.autograd.grad(sum(logits[i, c] for i, c in enumerate(CLASSES)), x)[0]


def slope(model, x, direction, step=1e-5):
    """∂f/∂(direction) for each image, without autograd."""
    with torch.no_grad():
        rise = model.module(x + step * direction) - model.module(x - step * direction)
    return torch.stack([rise[i, c] for i, c in enumerate(CLASSES)]) / (2 * step)


def test_saliency_is_the_largest_slope_over_channels(model, x, agree):
    agree("Saliency", "literal equation", Saliency(model)(x, CLASSES), gradient(model, x).abs().max(1).values)
    got = Saliency(model)(x, CLASSES)
    for row, col in ((0, 0), (5, 40), (31, 7)):
        slopes = []
        for channel in range(3):
            bump = torch.zeros_like(x)
            bump[:, channel, row, col] = 1
            slopes.append(slope(model, x, bump).abs())
        agree("Saliency", "finite differences", got[:, row, col], torch.stack(slopes).amax(0), 1e-4)


def test_saliency_is_captums(model, x, agree):
    want = TheirSaliency(model.module).attribute(x.clone().requires_grad_(), CLASSES, abs=True).amax(1)
    agree("Saliency", "captum Saliency, max over channels", Saliency(model)(x, CLASSES), want)


def test_input_x_gradient_is_captums_summed_over_channels(model, x, agree):
    got = InputXGradient(model)(x, CLASSES)
    agree("Input × gradient", "literal equation", got, (x * gradient(model, x)).sum(1))
    want = TheirInputXGradient(model.module).attribute(x.clone().requires_grad_(), CLASSES).sum(1)
    agree("Input × gradient", "captum InputXGradient, sum over channels", got, want)
    agree("Input × gradient", "finite differences, whole map", got.sum((1, 2)), slope(model, x, x), 1e-5)


def test_smooth_grad_averages_signed_gradients(model, x, agree):
    generator = torch.Generator().manual_seed(5)
    draws = [torch.randn(x.shape[1:], generator=generator).double() for _ in range(4)]
    spread = torch.stack([image.max() - image.min() for image in x])[:, None, None, None]
    want = sum(gradient(model, x + 0.2 * spread * draw) for draw in draws) / 4
    method = SmoothGrad(model, n_samples=4, sigma=0.2, seed=5)
    agree("SmoothGrad", "literal equation", method(x, CLASSES), want.abs().amax(1))
    agree(
        "SmoothGrad",
        "saliency, σ = 0",
        SmoothGrad(model, n_samples=2, sigma=0)(x, CLASSES),
        Saliency(model)(x, CLASSES),
    )


def test_smooth_grad_is_captums_noise_tunnel_over_signed_saliency(model, x, agree):
    """The same seed gives the same draws; `Saliency(abs=True)` below the tunnel is larger, as our docstring says."""
    ours = SmoothGrad(model, n_samples=50, sigma=0.1, batch_size=50)(x[:1], 3)
    sigma, tunnel = 0.1 * float(x[0].max() - x[0].min()), NoiseTunnel(TheirSaliency(model.module))
    torch.manual_seed(0)
    given = {"nt_samples": 50, "nt_samples_batch_size": 50, "stdevs": sigma, "target": 3}
    signed, unsigned = (tunnel.attribute(x[:1], abs=flag, **given).detach() for flag in (False, True))
    agree("SmoothGrad", "captum NoiseTunnel over Saliency(abs=False)", ours, signed.abs().amax(1), 1e-5)
    assert unsigned.mean() > 1.02 * signed.abs().mean()


def test_smooth_grad_repeats_with_its_seed_only(x):
    model = toy_cnn()
    first = SmoothGrad(model, n_samples=3, seed=1)(x.float(), 2)
    torch.rand(3)
    assert torch.equal(first, SmoothGrad(model, n_samples=3, seed=1)(x.float(), 2))
    assert not torch.allclose(first, SmoothGrad(model, n_samples=3, seed=2)(x.float(), 2))


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [("midpoint", "riemann_middle"), ("right", "riemann_right"), ("gauss_legendre", "gausslegendre")],
)
def test_integrated_gradients_is_captums(model, x, rule, theirs, agree):
    baseline = batch(2, seed=9).double()
    got = IntegratedGradients(model, n_steps=7, baseline=baseline, rule=rule)(x, CLASSES)
    want = TheirIntegratedGradients(model.module).attribute(x, baseline, CLASSES, n_steps=7, method=theirs).sum(1)
    agree("Integrated Gradients", f"captum {theirs}, sum over channels", got, want)


@pytest.mark.parametrize("rule", ["midpoint", "right", "gauss_legendre"])
def test_integrated_gradients_is_a_sum_over_points(model, x, rule, agree):
    n, want = 3, torch.zeros_like(x)
    if rule == "midpoint":
        nodes = [(1 / 6, 1 / 3), (3 / 6, 1 / 3), (5 / 6, 1 / 3)]
    elif rule == "right":  # eq. 3: k/n
        nodes = [(1 / 3, 1 / 3), (2 / 3, 1 / 3), (1, 1 / 3)]
    else:  # the roots of the third Legendre polynomial, moved to [0, 1]
        root = 0.6**0.5 / 2
        nodes = [(0.5 - root, 5 / 18), (0.5, 8 / 18), (0.5 + root, 5 / 18)]
    for alpha, weight in nodes:
        want += weight * x * gradient(model, alpha * x)
    got = IntegratedGradients(model, n_steps=n, baseline="zero", rule=rule)(x, CLASSES)
    agree("Integrated Gradients", f"literal equation, {rule}", got, want.sum(1))


@pytest.mark.parametrize("baseline", ["zero", "black", "mean", "blur"])
def test_integrated_gradients_sum_to_the_rise_of_the_score(model, x, baseline, agree):
    start = BASELINE_IMAGES[baseline](model, x)
    with torch.no_grad():
        rise = model.module(x) - model.module(start)
    rise = torch.stack([rise[i, c] for i, c in enumerate(CLASSES)])
    method = IntegratedGradients(model, n_steps=300, baseline=baseline, batch_size=100)
    agree("Integrated Gradients", "completeness, n = 300", method(x, CLASSES).sum((1, 2)), rise, 1e-2)


def test_quadrature_integrates_polynomials():
    for n in (1, 2, 5, 50):
        nodes, weights = quadrature(n, "gauss_legendre")
        for power in range(min(2 * n, 12)):
            torch.testing.assert_close((weights * nodes**power).sum().item(), 1 / (power + 1))
        nodes, weights = quadrature(n, "midpoint")
        assert (weights * nodes).sum() == pytest.approx(1 / 2)


def test_baselines_are_what_they_say(x):
    model = toy_cnn()
    black = model.preprocess_images(Image.new("RGB", (48, 32)))
    torch.testing.assert_close(BASELINE_IMAGES["black"](model, x.float())[:1], black)
    assert not BASELINE_IMAGES["zero"](model, x).any()
    means = [[float(channel.mean()) for channel in image] for image in x]
    torch.testing.assert_close(BASELINE_IMAGES["mean"](model, x)[..., 0, 0], torch.tensor(means, dtype=x.dtype))
    blurred = BASELINE_IMAGES["blur"](model, x)
    assert blurred.std() < 0.3 * x.std()


def test_blur_is_a_gaussian():
    dot = torch.zeros(1, 1, 31, 41, dtype=torch.float64)
    dot[0, 0, 15, 20] = 1
    blurred = gaussian_blur(dot, 2.0)[0, 0]
    rows, cols = torch.meshgrid(torch.arange(31).double() - 15, torch.arange(41).double() - 20, indexing="ij")
    want = torch.exp(-(rows**2 + cols**2) / 8) * (rows.abs() <= 6) * (cols.abs() <= 6)
    torch.testing.assert_close(blurred, want / want.sum(), rtol=1e-9, atol=1e-12)
    flat = torch.full((1, 3, 9, 9), 4.0)
    torch.testing.assert_close(gaussian_blur(flat, 2.0), flat)  # borders do not darken


def test_options_that_cannot_work(x):
    model = toy_cnn()
    with pytest.raises(OptionError, match="black, zero, mean, blur, noise, rise_blur, or a color"):
        IntegratedGradients(model, baseline="nothing")
    with pytest.raises(OptionError, match="midpoint, right, gauss_legendre"):
        IntegratedGradients(model, rule="trapezoid")
    with pytest.raises(OptionError, match="broadcasts to the batch"):
        IntegratedGradients(model, baseline=torch.zeros(4, 4))(x.float(), 1)
    for cls, name in [(IntegratedGradients, "n_steps"), (SmoothGrad, "n_samples"), (SmoothGrad, "batch_size")]:
        with pytest.raises(OptionError, match=f"{name}=0 is too small"):
            cls(model, **{name: 0})


@pytest.mark.parametrize("cls", [SmoothGrad, IntegratedGradients])
def test_chunks_and_neighbors_do_not_change_the_map(cls):
    model, x, n = toy_cnn(), batch(3), "n_steps" if cls is IntegratedGradients else "n_samples"
    maps = [cls(model, **{n: 7}, batch_size=size)(x, [0, 1, 2]) for size in (1, 6, 100)]
    alone = torch.cat([cls(model, **{n: 7})(x[i : i + 1], i) for i in range(3)])
    for other in (maps[1], maps[2], alone):
        torch.testing.assert_close(maps[0], other, rtol=1e-4, atol=1e-6)


# ── channels and signs: one mechanism for the family ──────────────────────────────────────────────────────────────────

READINGS = {
    ("max_abs", False): lambda g: g.abs().amax(1),
    ("max_abs", True): lambda g: torch.where(g.amax(1) >= -g.amin(1), g.amax(1), g.amin(1)),
    ("mean", False): lambda g: (g[:, 0].abs() + g[:, 1].abs() + g[:, 2].abs()) / 3,
    ("mean", True): lambda g: (g[:, 0] + g[:, 1] + g[:, 2]) / 3,
    ("sum", False): lambda g: g[:, 0].abs() + g[:, 1].abs() + g[:, 2].abs(),
    ("sum", True): lambda g: g[:, 0] + g[:, 1] + g[:, 2],
}


@pytest.mark.parametrize(("channels", "signed"), READINGS)
def test_channels_become_one_value_in_plain_words(x, channels, signed, agree):
    model = toy_cnn()
    model.module.double().eval()
    reading, how = READINGS[channels, signed], {"channels": channels, "signed": signed}
    slopes = gradient(model, x)
    agree("Saliency", f"literal, {channels}", Saliency(model, **how)(x, CLASSES), reading(slopes))
    agree("Input × gradient", f"literal, {channels}", InputXGradient(model, **how)(x, CLASSES), reading(x * slopes))
    draw = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(5)).double()
    spread = torch.stack([image.max() - image.min() for image in x])[:, None, None, None]
    noisy = gradient(model, x + 0.15 * spread * draw)
    agree(
        "SmoothGrad", f"literal, {channels}", SmoothGrad(model, n_samples=1, seed=5, **how)(x, CLASSES), reading(noisy)
    )
    ig = IntegratedGradients(model, n_steps=1, rule="right", baseline="zero", **how)(x, CLASSES)
    agree("Integrated Gradients", f"literal, {channels}", ig, reading(x * slopes))


FAMILY = [cls for cls in METHODS.values() if cls.card.family == "gradient"]


@pytest.mark.parametrize("cls", FAMILY, ids=[cls.card.name for cls in FAMILY])
def test_every_gradient_method_has_the_same_two_options(cls, x):
    """The default is that of the card; the signed sum over channels is three times their mean."""
    model, few = toy_cnn(), few_repetitions(cls)
    assert cls(model).is_signed == cls.card.signed
    assert not cls(model, signed=False, **few).is_signed
    assert cls(model, signed=False, **few)(x.float(), CLASSES).min() >= 0
    three, one = (cls(model, channels=c, signed=True, **few)(x.float(), CLASSES) for c in ("sum", "mean"))
    assert three.min() < 0
    torch.testing.assert_close(three, 3 * one)


def test_an_explanation_is_signed_as_its_map_is(cat):
    model = toy_cnn()
    kinds = [seewhy.explain(model, cat, "saliency", signed=signed).signed for signed in (False, True)]
    assert kinds == [False, True]
    assert describe_method("s", Saliency(model, signed=True))["signed"]
