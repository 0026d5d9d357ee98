"""CAV, TCAV and α-TCAV: directions known on paper, derivatives by finite differences, concepts of the scenes."""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from toys import batch, toy_cnn, toy_vit

import seewhy
from seewhy.analysis.concept_activation import _derivatives, _gradients, cav, tcav, welch_p_value
from seewhy.analysis.separator import separate
from seewhy.data.scenes import CLASSES, TEXTURES, Scenes
from seewhy.errors import OptionError, TargetError
from seewhy.models.instrument.hooks import hooked

MAKERS = [(toy_cnn, "stage1"), (toy_vit, "blocks.1")]


def images(n: int, seed: int = 0) -> list[Image.Image]:
    values = torch.randint(0, 256, (n, 32, 48, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return [Image.fromarray(v.numpy()) for v in values]


def reddish(n: int, seed: int = 5) -> list[Image.Image]:
    return [Image.blend(p, Image.new("RGB", p.size, (255, 0, 0)), 0.5) for p in images(n, seed)]


def test_the_separator_finds_a_direction_known_on_paper():
    """Two clouds that differ along one axis only, with the same round noise: that axis, from random to concept."""
    noise, axis = torch.randn(400, 6).double(), torch.eye(6).double()[2]
    v, offset = separate(noise[:200] + 3 * axis, noise[200:] - axis, 0.01)
    assert v @ axis > 0.98
    assert v.norm().item() == pytest.approx(1)
    assert offset == pytest.approx(-1, abs=0.2)  # half way between -1 and 3
    back, _ = separate(noise[200:] - axis, noise[:200] + 3 * axis, 0.01)
    torch.testing.assert_close(back, -v)


def test_the_dual_separator_equals_the_primal_normal_equations():
    yes, no = torch.randn(7, 4).double() + 1, torch.randn(12, 4).double()
    v, _ = separate(yes, no, 0.1)
    x, y = torch.cat([yes, no]), torch.tensor([1.0] * 7 + [-1.0] * 12).double()
    half = torch.tensor([0.5 / 7] * 7 + [0.5 / 12] * 12).double()
    x = x - (half[:, None] * x).sum(0)
    moment = torch.einsum("n,ni,nj->ij", half, x, x)
    w = torch.linalg.solve(moment + 0.1 * moment.trace() * torch.eye(4).double(), (half * y) @ x)
    torch.testing.assert_close(v, w / w.norm())


@pytest.mark.parametrize(("make", "layer"), MAKERS)
@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_the_sensitivity_is_the_finite_difference_along_the_vector(make, layer, pool):
    model = make()
    model.module.double()
    result = cav(model, reddish(6), images(6), layer=layer, pool=pool)
    g = _gradients(model, images(2, 9), "dog", result.layer, pool, batch_size=1).double()
    x, step = model.preprocess_images(images(2, 9)), 1e-5
    direction = result.vector.double() if pool == "flatten" else result.vector.double()[:, None, None]

    def shifted(sign: float):
        def hook(_, __, output):
            if result.layer.layout == "nchw":
                return output + sign * step * direction
            change = direction.expand(-1, 4, 6).flatten(1).T
            return torch.cat([output[:, :1], output[:, 1:] + sign * step * change], 1)

        with torch.no_grad(), hooked(model.module.eval().get_submodule(layer), hook):
            return model.module(x)[:, 3]

    numeric = (shifted(1) - shifted(-1)) / (2 * step)
    sensitivities = _derivatives(g, replace(result, vector=result.vector.double()))
    torch.testing.assert_close(sensitivities, numeric, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("make", "layer"), MAKERS)
def test_a_cav_knows_red_its_maps_too_and_nothing_is_left_behind(make, layer):
    model = make()
    weights, state = copy.deepcopy(model.module.state_dict()), torch.get_rng_state()
    result = cav(model, reddish(12), images(12), layer=layer)
    assert result.accuracy == 1
    assert result.held_out == 8
    half = images(1, 20)[0]
    half.paste(reddish(1, 20)[0].crop((0, 0, 24, 32)), (0, 0))
    (where,) = result.maps(model, half)
    assert where[:, : where.shape[1] // 2].mean() > where[:, where.shape[1] // 2 :].mean()
    assert result.maps(model, reddish(3, 30)).mean() > 0 > result.maps(model, images(3, 30)).mean()
    assert all(torch.equal(weights[k], v) for k, v in model.module.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_a_concept_that_is_none_is_at_chance():
    accuracies = [cav(toy_cnn(), images(24, s), images(24, s + 50), layer="stage1").accuracy for s in range(4)]
    assert sum(accuracies) / 4 == pytest.approx(0.5, abs=0.2)


def test_grad_cam_of_a_mean_embedding_is_the_concept_map_of_a_cnn():
    """⟨A_ij, l_c⟩ / positions, because the embedding is the mean of A: no method of its own is needed."""
    model, x = toy_cnn(), batch()
    target = seewhy.concept(model, reddish(4))
    maps = seewhy.methods.GradCAM(model, relu=False)(x, target)
    a = model.activations(x, [model.layer("stage2")])["stage2"]
    literal = torch.einsum("bcij,c->bij", a, target.vector) / a[0, 0].numel()
    torch.testing.assert_close(maps, literal)


def test_tcav_counts_positive_derivatives_and_is_seeded():
    model = toy_cnn()
    one, same = (tcav(model, images(5, 3), "cat", reddish(6), images(14, 1), layer="stage1", runs=3) for _ in range(2))
    assert (one.scores, one.random_scores, one.p_value) == (same.scores, same.random_scores, same.p_value)
    assert one.score == pytest.approx(sum(one.scores) / 3)
    assert one.smooth(1e9) == pytest.approx((one.sensitivities > 0).double().mean().item())
    literal = sum(1 / (1 + math.exp(-2.5 * s)) for s in one.sensitivities.tolist()) / 5
    assert one.smooth(2.5) == pytest.approx(literal)


def test_welch_with_and_without_spread():
    assert welch_p_value([1, 1], [1, 1]) == 1
    assert welch_p_value([1, 1], [0, 0]) == 0
    assert welch_p_value([1.0, 2, 3], [2.0, 3, 4]) == pytest.approx(0.2878641, abs=1e-6)


@pytest.mark.parametrize("kind", ["concept", "random", "class"])
def test_empty_sets_are_named(kind, tmp_path):
    sets = {"class": images(1), "concept": reddish(2), "random": images(4), kind: []}
    with pytest.raises(TargetError, match=f"0 {kind} images"):
        tcav(toy_cnn(), sets["class"], "cat", sets["concept"], sets["random"])
    sets[kind] = str(tmp_path)
    with pytest.raises(TargetError, match=f"{kind} folder"):
        tcav(toy_cnn(), sets["class"], "cat", sets["concept"], sets["random"])


def test_invalid_options_cost_one_line():
    model, some = toy_cnn(), images(4)
    with pytest.raises(OptionError, match="mean, flatten"):
        cav(model, some, some, pool="max")
    with pytest.raises(TargetError, match="same for all"):
        cav(model, some[:1] * 3, some[:1] * 3)
    with pytest.raises(TargetError, match="does not separate"):
        cav(model, some, some)
    with pytest.raises(TargetError, match="too few"):
        tcav(model, some, "cat", some, some[:3])
    with pytest.raises(OptionError, match="runs=1"):
        tcav(model, some, "cat", some, some, runs=1)


@pytest.mark.slow
def test_the_scenes_cnn_knows_shapes_and_has_forgotten_textures():
    """Class is the shape: high in the net its own shape raises a class, and a texture can no longer be told."""
    model, scenes = seewhy.load_model("scenes_cnn", device="cpu"), Scenes("single")
    plans = [scenes.plan(i) for i in range(600)]

    def some(of, value, same, start=0, n=12):
        return [scenes[i].image for i in range(start, 600) if (getattr(plans[i], of)[0] == value) == same][:n]

    star, stripes = CLASSES.index("star"), TEXTURES.index("stripes")
    shape = tcav(
        model,
        some("classes", star, True, 300, 5),
        "star",
        some("classes", star, True),
        some("classes", star, False, n=30),
        layer="layer3",
        runs=4,
    )
    assert shape.accuracy > 0.85
    assert shape.scores == [1] * 4
    assert cav(model, some("textures", stripes, True, n=24), some("textures", stripes, False, n=24)).accuracy < 0.8


def test_the_command_prints_the_score_and_what_it_is_worth(monkeypatch, tmp_path, capsys):
    from seewhy.cli import main

    for name, some in (("red", reddish(4)), ("any", images(10)), ("cats", images(2, 3))):
        (tmp_path / name).mkdir()
        for i, image in enumerate(some):
            image.save(tmp_path / name / f"{i}.png")
    monkeypatch.setattr("seewhy.cli.loading.Loading.model", lambda *_: toy_cnn())
    words = [
        "tcav",
        "cats",
        "--class",
        "cat",
        "--concept",
        "red",
        "--random",
        "any",
        "--layer",
        "stage1",
        "--runs",
        "3",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["seewhy", *words, "--alpha", "2", "--json"])
    with pytest.raises(SystemExit):
        main()
    about = json.loads(capsys.readouterr().out)
    direct = tcav(toy_cnn(), "cats", "cat", "red", "any", layer="stage1", runs=3)
    assert (about["score"], about["p"], about["smooth"]) == pytest.approx(
        (direct.score, direct.p_value, direct.smooth(2))
    )
    monkeypatch.setattr(sys, "argv", ["seewhy", *words])
    with pytest.raises(SystemExit):
        main()
    assert "cat towards red at stage1: TCAV" in capsys.readouterr().out
