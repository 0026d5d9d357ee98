"""Class model visualization: the literal step, where it rests, and what it leaves behind."""

from __future__ import annotations

import copy
import json
import sys
from itertools import pairwise

import pytest
import torch
from PIL import Image
from torch import nn
from toys import toy_cnn, toy_vit

import seewhy
from seewhy.analysis.activation_maximization import shift_image, visualize_class
from seewhy.errors import NonFiniteError, OptionError, RequirementError, UnknownNameError

PLAIN = {"jitter": 0, "blur": 0}


class Linear(nn.Module):
    """Scores that are linear in the image: the best image is known on paper."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3 * 6 * 8))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def linear(scale: float = 1.0):
    module = Linear()
    module.weight.data *= scale
    return seewhy.wrap(module, class_names=["a", "b"], preprocess=seewhy.Preprocess(size=(6, 8), resize=None))


@pytest.mark.parametrize("make", [toy_cnn, toy_vit])
def test_the_score_rises_and_every_frame_is_an_image(make):
    result = visualize_class(make(), "cat", steps=20, step=0.05, l2=0, frames=5, **PLAIN)
    assert result.label == "cat"
    assert all(after > before for before, after in pairwise(result.scores))
    assert len(result.scores) == 21
    assert len(result.frames) == 5
    assert {frame.size for frame in result.frames} == {(48, 32)}
    assert result.frames[-1] is result.image


def test_two_steps_equal_the_literal_ones_on_the_logit():
    model = toy_cnn()
    result = visualize_class(model, 3, steps=2, step=0.2, l2=0.01, **PLAIN)
    x = torch.zeros(1, 3, 32, 48)
    for expected in result.scores[:2]:
        x.requires_grad_()
        score = model.module.eval()(x)[0, 3]
        assert score.item() == pytest.approx(expected, rel=1e-5)
        (g,) = torch.autograd.grad(score, x)
        eta = 0.2 / (g**2).mean() ** 0.5
        x = ((x + eta * g) / (1 + 2 * eta * 0.01)).detach()
    torch.testing.assert_close(result.input, x[0])


def test_it_rests_at_the_maximum_known_on_paper():
    """f = ⟨w, I⟩: the maximum of f − λ‖I‖² is I = w / 2λ."""
    model = linear()
    result = visualize_class(model, "b", steps=300, l2=0.25, **PLAIN)
    torch.testing.assert_close(result.input.flatten(), model.module.weight[1].detach() / 0.5, rtol=1e-4, atol=1e-4)


def test_jitter_takes_the_gradient_of_the_shifted_image_and_shifts_it_back():
    """The score reads one pixel: with shifts, the pixels that the image was shifted from grow."""
    model = linear()
    model.module.weight.data.zero_()
    model.module.weight.data.view(2, 3, 6, 8)[0, :, 2, 3] = 1
    touched = visualize_class(model, 0, steps=40, l2=0, jitter=1, blur=0).input.abs().sum(0) > 0
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(touched, expected)


def test_a_shift_brings_in_the_mean_color_and_is_no_torus():
    """The score reads the first pixel: with a cyclic shift the pixels of the far border would grow as well."""
    model = linear()
    model.module.weight.data.zero_()
    model.module.weight.data.view(2, 3, 6, 8)[0, :, 0, 0] = 1
    touched = visualize_class(model, 0, steps=40, l2=0, jitter=1, blur=0).input.abs().sum(0) > 0
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(touched, expected)
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert shift_image(x, (1, -2)).tolist() == [[[[0, 0, 0, 0], [2, 3, 0, 0], [6, 7, 0, 0]]]]
    assert torch.equal(shift_image(x, (0, 0)), x)


def test_blur_spreads_what_one_pixel_asks_for():
    model = linear()
    model.module.weight.data.zero_()
    model.module.weight.data.view(2, 3, 6, 8)[0, :, 2, 3] = 1
    sharp, soft = (visualize_class(model, 0, steps=3, jitter=0, blur=blur).input[0] for blur in (0, 1.0))
    assert (sharp > 0).sum() == 1
    assert (soft > 0).sum() > 9
    assert soft.argmax() == sharp.argmax()


def test_a_large_penalty_keeps_the_image_at_the_mean_color():
    result = visualize_class(toy_cnn(), "ant", steps=20, l2=1e6)
    assert result.input.abs().max() < 1e-4
    mean = [round(255 * value) for value in (0.485, 0.456, 0.406)]
    assert result.image.getpixel((5, 5)) == pytest.approx(mean, abs=1)
    assert visualize_class(toy_cnn(), "ant", steps=20, l2=0).input.abs().max() > 0.1


def test_seeded_runs_repeat_and_the_seed_matters():
    one, same, other = (visualize_class(toy_cnn(), "ant", steps=5, seed=seed).input for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_any_target_and_a_progress_callback():
    seen = []

    def progress(items, total, label):
        for item in items:
            seen.append((item, total))
            yield item

    model = toy_cnn()
    assert visualize_class(model, "embedding-sum", steps=4, progress=progress).label == "embedding sum"
    assert seen == [(i, 4) for i in range(4)]
    assert visualize_class(model, lambda logits: logits[:, 0] - logits[:, 1], steps=2).scores[-1] is not None
    answer = model.module.eval()(torch.zeros(1, 3, 32, 48)).argmax().item()
    assert visualize_class(model, "top-1", steps=1).label == model.class_names[answer]


def test_the_model_and_the_random_state_stay(monkeypatch):
    model = toy_cnn()
    model.module.train()
    before, state = copy.deepcopy(model.module.state_dict()), torch.get_rng_state()
    visualize_class(model, "ant", steps=3)
    assert model.module.training
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.module.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "error", "advice"),
    [
        ({"target": "catt"}, UnknownNameError, "did you mean 'cat'"),
        ({"steps": 0}, OptionError, "use 1 or more"),
        ({"step": 0}, OptionError, "step must be positive"),
        ({"l2": -1}, OptionError, "l2 must be at least 0, got -1"),
        ({"jitter": 32}, OptionError, "out of sight; use less than 32"),
    ],
)
def test_bad_options_cost_one_line(options, error, advice):
    with pytest.raises(error, match=advice):
        visualize_class(toy_cnn(), **{"target": "cat", **options})


def test_a_function_that_only_answers_cannot_visualize_class():
    model = seewhy.wrap_function(lambda x: x.flatten(1)[:, :2], classes=2)
    with pytest.raises(RequirementError, match="gradients"):
        visualize_class(model, 0)


def test_overflow_is_an_error_and_no_black_image():
    with pytest.raises(NonFiniteError, match="smaller step"):
        visualize_class(linear(), lambda logits: logits.exp().exp()[:, 0], steps=5, l2=0, **PLAIN)


def test_the_command_writes_a_gif_and_an_image(monkeypatch, tmp_path, capsys):
    from seewhy.cli import main

    monkeypatch.setattr("seewhy.cli.loading.Loading.model", lambda *_: toy_cnn())
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "seewhy",
            "visualize-class",
            "--class",
            "cat",
            "--steps",
            "12",
            "--jitter",
            "0",
            "--json",
            "-o",
            str(tmp_path / "new" / "cat.gif"),
        ],
    )
    with pytest.raises(SystemExit):
        main()
    about = json.loads(capsys.readouterr().out)
    assert about["target"] == "cat"
    assert about["scores"][-1] > about["scores"][0]
    with Image.open(about["gif"]) as gif:
        assert gif.n_frames > 3
    assert Image.open(about["png"]).size == (48, 32)
