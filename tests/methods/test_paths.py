"""Guided IG, Spectral IG, multi-crop saliency and the baselines against PAIR's package and their equations."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from saliency.core import guided_ig as theirs
from scipy.ndimage import gaussian_filter
from toys import batch, toy_cnn

from seewhy.errors import OptionError, TargetError
from seewhy.methods import GuidedIG, IntegratedGradients, MultiCropSaliency, Saliency, SpectralIG
from seewhy.methods.baselines import BASELINE_IMAGES, baseline, starting_images, uniform_noise
from seewhy.methods.gradient.multi_crop_saliency import windows
from seewhy.methods.gradient.spectral_ig import SpectralPath
from seewhy.targets import Custom, Regression, embedding_sum

CLASSES = [3, 1]


@pytest.fixture
def start():
    return batch(2, seed=9).double()


def gradient(module, x, c, read=lambda logits: logits):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(read(module(x[None]))[0, c], x)[0]


def rise(model, x, start, read=lambda logits: logits):
    with torch.no_grad():
        scores = read(model.module(x)) - read(model.module(start))
    return torch.stack([scores[i, c] for i, c in enumerate(CLASSES)])


# ── Guided IG ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def _old_numpy(monkeypatch):
    """The package calls `np.quantile(interpolation=…)`, which numpy now calls `method`."""
    quantile = np.quantile
    monkeypatch.setattr(theirs.np, "quantile", lambda *a, interpolation, **k: quantile(*a, method=interpolation, **k))


@pytest.mark.usefixtures("_old_numpy")
@pytest.mark.parametrize(
    ("n", "fraction", "max_dist"),
    [
        (7, 0.05, 1.0),
        (7, 0.25, 0.02),
        (5, 0.3, 0.2),
        (9, 0.01, 0.1),
        (4, 1.0, 1.0),
        (1, 0.05, 1.0),
    ],
)
def test_guided_ig_is_the_authors(model, x, start, n, fraction, max_dist, agree):
    want = []
    for i, c in enumerate(CLASSES):

        def slope(point, c=c):
            return gradient(model.module, torch.from_numpy(point), c).numpy()

        found = theirs.guided_ig_impl(x[i].numpy(), start[i].numpy(), slope, n, fraction, max_dist)
        want.append(torch.from_numpy(found).sum(0))
    ours = GuidedIG(model, n_steps=n, fraction=fraction, max_dist=max_dist, baseline=start)(x, CLASSES)
    agree("Guided IG", "PAIR saliency package", ours, torch.stack(want))


def test_guided_ig_bound_to_the_line_is_left_end_integrated_gradients(model, x, start, agree):
    n = 5
    want = [
        sum(
            (x[i] - start[i]) / n * gradient(model.module, start[i] + k / n * (x[i] - start[i]), c) for k in range(n)
        ).sum(0)
        for i, c in enumerate(CLASSES)
    ]
    ours = GuidedIG(model, n_steps=n, max_dist=0, baseline=start)(x, CLASSES)
    agree("Guided IG, max_dist = 0", "left-end IG", ours, torch.stack(want))


def test_guided_ig_sums_to_the_rise_near_the_line_but_hardly_on_a_free_path(model, x, agree):
    want = rise(model, x, x * 0)
    ours, free = (GuidedIG(model, n_steps=100, max_dist=d, baseline="zero")(x, CLASSES) for d in (0.02, 1.0))
    agree("Guided IG", "completeness, n = 100", ours.sum((1, 2)), want, 5e-2)
    assert (free.sum((1, 2)) - want).abs().max() > 2 * (ours.sum((1, 2)) - want).abs().max()
    line = IntegratedGradients(model, n_steps=50, baseline="zero")(x, CLASSES)
    assert (free - line).abs().max() > 0.05 * line.abs().max()


def test_guided_ig_of_an_image_like_its_baseline_is_zero(x):
    model = toy_cnn()
    assert not GuidedIG(model, n_steps=3, baseline=x)(x.float(), 1).any()
    some = x.clone()
    some[:, :, :16] = 0  # half of the features do not move
    maps = GuidedIG(model, n_steps=3, baseline="zero")(some.float(), 1)
    assert not maps[:, :16].any()
    assert maps[:, 16:].any()


# ── Spectral IG ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("of", ["probability", "logit"])
def test_spectral_ig_is_its_equation(model, x, start, of, agree):
    n, w = 6, 0.4
    read = (lambda z: torch.exp(z) / torch.exp(z).sum(1, keepdim=True)) if of == "probability" else (lambda z: z)

    def at(i, alpha):
        point = torch.zeros_like(x[i])
        for channel in range(3):
            u, s, v = np.linalg.svd((x[i, channel] - start[i, channel]).numpy(), full_matrices=False)
            for k in range(len(s)):
                late = (1 - w) * (1 - s[k] / s.max())
                point[channel] += torch.from_numpy(min(max((alpha - late) / w, 0), 1) * s[k] * np.outer(u[:, k], v[k]))
        return start[i] + point

    want = torch.zeros(2, 32, 48, dtype=torch.float64)
    for i, c in enumerate(CLASSES):
        for k in range(n):
            slope = gradient(model.module, at(i, (k + 0.5) / n), c, read)
            want[i] += ((at(i, (k + 1) / n) - at(i, k / n)) * slope).sum(0)
    ours = SpectralIG(model, n_steps=n, width=w, read_out=of, baseline=start, batch_size=5)(x, CLASSES)
    agree("Spectral IG", f"literal equation, {of}", ours, want, 1e-5)


def test_spectral_ig_with_w_1_is_exactly_the_straight_line(model, x, start, agree):
    ours = SpectralIG(model, n_steps=9, width=1, read_out="logit", baseline=start)(x, CLASSES)
    agree("Spectral IG, w = 1", "our IG", ours, IntegratedGradients(model, n_steps=9, baseline=start)(x, CLASSES))


def test_spectral_ig_sums_to_the_rise_of_the_probability_unless_w_is_tiny(model, x, start, agree):
    want = rise(model, x, start, lambda z: z.softmax(1))
    errors = {}
    for w in (0.4, 1e-6):
        got = SpectralIG(model, n_steps=200, width=w, baseline=start, batch_size=100)(x, CLASSES).sum((1, 2)).double()
        errors[w] = float((got - want).abs().max() / want.abs().max())
        if w == 0.4:
            agree("Spectral IG", "completeness, n = 200", got, want, 2e-2)
    few = SpectralIG(model, n_steps=10, width=1e-6, baseline=start)(x, CLASSES).sum((1, 2)).double()
    assert float((few - want).abs().max() / want.abs().max()) > 10 * errors[0.4]


def test_the_path_goes_from_strong_to_weak():
    """Of two components, the strong one is all there when the weak one begins."""
    left, right = torch.linalg.qr(torch.randn(6, 6).double())[0], torch.linalg.qr(torch.randn(8, 8).double())[0]
    strong, weak = 5 * torch.outer(left[0], right[0]), 0.5 * torch.outer(left[1], right[1])
    path = SpectralPath((strong + weak)[None, None], 0.4)
    points = path(torch.tensor([0.0, 0.2, 0.4, 0.54, 0.94, 1.0]).double())[:, 0, 0]
    # the weak one starts at 0.6 · (1 − 0.1) = 0.54
    for got, want in zip(points, [0 * weak, strong / 2, strong, strong, strong + weak, strong + weak], strict=True):
        torch.testing.assert_close(got, want)


def test_spectral_ig_explains_what_has_no_probability_as_it_is(x):
    model = toy_cnn()
    x = x.float()
    same = [SpectralIG(model, n_steps=3, read_out=of)(x, embedding_sum()) for of in ("probability", "logit")]
    assert torch.equal(*same)
    of_function = SpectralIG(model, n_steps=3)(x, Custom(lambda p: p[:, 2]))
    assert torch.equal(of_function, SpectralIG(model, n_steps=3)(x, 2))
    with pytest.raises(TargetError, match="read_out='logit'"):
        SpectralIG(model)(x, Regression(0))
    assert SpectralIG(model, n_steps=2, read_out="logit")(x, Regression(0)).any()
    assert not SpectralIG(model, n_steps=2, baseline="zero")(torch.zeros_like(x), 1).any()


# ── Multi-crop saliency ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("mirror", "fraction"), [(True, 0.875), (False, 0.5)])
def test_multi_crop_saliency_is_the_mean_over_the_papers_crops(model, x, mirror, fraction, agree):
    high, wide = round(32 * fraction), round(48 * fraction)
    corners = [(0, 0), (0, 48 - wide), (32 - high, 0), (32 - high, 48 - wide), ((32 - high) // 2, (48 - wide) // 2)]
    want, count = torch.zeros(2, 32, 48).double(), torch.zeros(32, 48)
    for top, left in corners:
        for flip in (False, True) if mirror else (False,):
            count[top : top + high, left : left + wide] += 1
            for i, c in enumerate(CLASSES):
                crop = x[i, :, top : top + high, left : left + wide].clone().requires_grad_()
                seen = F.interpolate((crop.flip(2) if flip else crop)[None], (32, 48), mode="bilinear")
                slope = torch.autograd.grad(model.module(seen)[0, c], crop)[0]
                want[i, top : top + high, left : left + wide] += slope.abs().max(0).values
    assert count.min() >= 1
    assert count.min() < count.max()
    ours = MultiCropSaliency(model, mirror=mirror, fraction=fraction, batch_size=7)(x, CLASSES)
    agree("Multi-crop saliency", "literal crops", ours, want / count)


def test_one_uncropped_view_is_saliency(model, x, agree):
    ours = MultiCropSaliency(model, fraction=1, mirror=False)(x, CLASSES)
    agree("Multi-crop saliency, no crops", "saliency", ours, Saliency(model)(x, CLASSES))
    assert MultiCropSaliency(model).cost.forward == 10
    assert len(windows(224, 224, 0.875, True)) == 10
    assert windows(256, 256, 0.875, False)[3][:2] == (slice(32, 256), slice(32, 256))  # 224 of 256, as in the paper


# ── baselines and options ─────────────────────────────────────────────────────────────────────────────────────────────


def test_colors_are_photos_of_that_color(x):
    model = toy_cnn()
    for name, pixel in [("white", (255, 255, 255)), ("#7f7f7f", (127, 127, 127)), ("rgb(10,20,30)", (10, 20, 30))]:
        want = model.preprocess_images(Image.new("RGB", (48, 32), pixel))
        torch.testing.assert_close(starting_images(model, x.float(), name)[:1], want)
    assert torch.equal(starting_images(model, x, "black"), starting_images(model, x, "#000000"))


def test_noise_is_seeded_the_same_for_all_images_and_between_black_and_white(x):
    model = toy_cnn()
    state = torch.get_rng_state()
    one, two = BASELINE_IMAGES["noise"](model, x), BASELINE_IMAGES["noise"](model, x[:1])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[0], one[1])
    assert not torch.equal(uniform_noise(1)(model, x), one)
    dark, light = (starting_images(model, x, c) for c in ("black", "white"))
    share = (one - dark) / (light - dark)
    assert 0 <= share.min() < 0.01
    assert 0.99 < share.max() <= 1
    assert share.mean() == pytest.approx(0.5, abs=0.02)


def test_rise_blur_is_the_start_of_insertion_in_rises_code(x, agree):
    """Their `gkern(11, 5)`: a dot in 11 × 11, blurred by scipy, which reflects; `conv2d` with zeros around."""
    dot = np.zeros((11, 11))
    dot[5, 5] = 1
    kernel = torch.zeros(3, 3, 11, 11).double()
    for channel in range(3):
        kernel[channel, channel] = torch.from_numpy(gaussian_filter(dot, 5))
    agree("rise_blur", "gkern of RISE", BASELINE_IMAGES["rise_blur"](toy_cnn(), x), F.conv2d(x, kernel, padding=5))


@pytest.mark.parametrize("cls", [IntegratedGradients, GuidedIG, SpectralIG])
def test_every_path_method_takes_every_baseline(cls, x):
    model, x = toy_cnn(), x.float()
    for given in (*BASELINE_IMAGES, "gray", uniform_noise(3), torch.zeros(3, 1, 1), 0.5):
        assert torch.isfinite(cls(model, n_steps=2, baseline=given)(x, 1)).all()
    with pytest.raises(OptionError, match="black, zero, mean, blur, noise, rise_blur, or a color"):
        cls(model, baseline="nothing")
    with pytest.raises(OptionError, match="broadcasts to the batch"):
        cls(model, baseline=torch.zeros(4, 4))(x, 1)


def test_a_baseline_of_your_own_has_a_name(x):
    def upside_down(model, x):
        """Each image upside down."""
        return x.flip(2)

    try:
        baseline(upside_down)
        with pytest.raises(ValueError, match="twice"):
            baseline(upside_down)
        model = toy_cnn()
        by_name = IntegratedGradients(model, n_steps=2, baseline="upside_down")(x.float(), 1)
        assert torch.equal(by_name, IntegratedGradients(model, n_steps=2, baseline=x.float().flip(2))(x.float(), 1))
    finally:
        BASELINE_IMAGES.pop("upside_down", None)
    assert all(function.__doc__ for function in BASELINE_IMAGES.values())


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (GuidedIG, {"fraction": 0}),
        (GuidedIG, {"fraction": 1.5}),
        (GuidedIG, {"max_dist": -1}),
        (GuidedIG, {"n_steps": 0}),
        (SpectralIG, {"width": 0}),
        (SpectralIG, {"width": 1.1}),
        (SpectralIG, {"read_out": "loss"}),
        (SpectralIG, {"n_steps": 0}),
        (MultiCropSaliency, {"fraction": 0.4}),
        (MultiCropSaliency, {"fraction": 1.1}),
    ],
)
def test_options_that_cannot_work_are_refused_before_any_forward(cls, options):
    with pytest.raises(OptionError, match=next(iter(options))):
        cls(toy_cnn(), **options)


@pytest.mark.parametrize(
    "cls",
    [functools.partial(GuidedIG, n_steps=3), functools.partial(SpectralIG, n_steps=3), MultiCropSaliency],
    ids=["guided", "spectral", "crops"],
)
def test_zero_gradients_give_zeros(cls, x):
    model = toy_cnn()
    with torch.no_grad():
        model.module.head.weight.zero_()
    assert not cls(model)(x.float(), 2).any()
