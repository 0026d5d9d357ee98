"""The randomization cascade: who is flagged, in which order layers reinitialize, and that the user's model does not."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import nn
from toys import Edges, toy_cnn, toy_vit

import seewhy
from seewhy.analysis.randomization import CascadingRandomization, RandomizationStep, randomization_test
from seewhy.core.maps import normalize, spearman, ssim
from seewhy.errors import OptionError, RequirementError
from seewhy.explanation import Explanation
from seewhy.methods import METHODS
from seewhy.models.instrument.randomize import parametrized_modules, reinitialize
from seewhy.viz.randomization import randomization_figure


@pytest.fixture(params=[toy_cnn, toy_vit])
def model(request):
    return request.param()


@pytest.fixture
def image(cat):
    return cat.resize((48, 32))


def test_a_method_that_ignores_the_weights_is_flagged_and_grad_cam_is_not(model, image):
    edges, cam = randomization_test(model, image, [Edges, METHODS["grad_cam"](model, relu=False)], "cat")
    assert edges.verdict == "does not depend on the weights"
    assert [step.spearman for step in edges.steps] == pytest.approx([1] * len(edges.steps))
    assert [step.ssim for step in edges.steps] == pytest.approx([1] * len(edges.steps))
    assert cam.verdict == ""
    changed = [s.explanation for s in cam.steps if s.explanation is not None]
    assert not any(torch.equal(e.attribution, cam.trained.attribution) for e in changed)


def test_what_lies_below_the_random_layers_does_not_change(image):
    """LaFAM of stage 1 sees nothing of a random head or stage 2."""
    model = toy_cnn()
    (lafam,) = randomization_test(model, image, [METHODS["lafam"](model, layer=model.module.stage1)], steps=9)
    alike = {step.layer: torch.equal(step.explanation.attribution, lafam.trained.attribution) for step in lafam.steps}
    assert alike == {"head": True, "stage2.1": True, "stage2.0": True, "stage1.1": False, "stage1.0": False}
    assert lafam.verdict == ""


def test_the_users_model_and_the_random_state_stay(model, image):
    model.module.train()
    weights, state = copy.deepcopy(model.module.state_dict()), torch.get_rng_state()
    randomization_test(model, image, ["grad_cam"])
    assert model.module.training
    assert all(torch.equal(weights[k], v) for k, v in model.module.state_dict().items())
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.module.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_layers_forget_from_the_head_down_bare_parameters_last():
    model = toy_vit(depth=2)
    order = parametrized_modules(model, torch.zeros(1, 3, 32, 48))
    assert order[:3] == ["head", "norm", "blocks.1.mlp.2"]
    assert order[-2:] == ["patch_embed", ""]  # the class token and the places belong to the model itself
    owners = {n for n, m in model.module.named_modules() if list(m.parameters(recurse=False))}
    assert set(order) == owners


def test_forgetting_is_seeded_and_in_place_by_reset_parameters_or_the_same_spread():
    one, same, other = (nn.Linear(30, 40) for _ in range(3))
    for module, seed in ((one, 1), (same, 1), (other, 2)):
        reinitialize(module, seed)
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    bare = nn.Module()
    bare.token = nn.Parameter(5 * torch.randn(4000))
    before = bare.token.detach().clone()
    reinitialize(bare, 0)
    assert bare.token.std().item() == pytest.approx(5, rel=0.1)
    assert abs(torch.corrcoef(torch.stack([before, bare.token.detach()]))[0, 1]) < 0.1


def test_the_same_seed_gives_the_same_cascade_and_the_class_stays(image):
    runs = [randomization_test(toy_cnn(), image, ["saliency"], seed=seed, steps=3)[0] for seed in (4, 4, 5)]
    assert runs[0].trained.target["index"] == runs[0].steps[-1].explanation.target["index"]
    assert torch.equal(runs[0].steps[-1].explanation.attribution, runs[1].steps[-1].explanation.attribution)
    assert not torch.equal(runs[0].steps[-1].explanation.attribution, runs[2].steps[-1].explanation.attribution)


def test_spearman_is_that_of_scipy_for_each_map_ties_included():
    a = torch.randn(3, 5, 6).round()
    b = torch.randn(3, 5, 6) + a
    assert len(a[0].unique()) < 8
    theirs = [spearmanr(one.flatten(), two.flatten()).statistic for one, two in zip(a, b, strict=True)]
    assert spearman(a, b).tolist() == pytest.approx(theirs, abs=1e-12)
    assert spearman(torch.ones(1, 3, 3), a[:1, :3, :3]).isnan().all()


@pytest.mark.parametrize("signed", [False, True])
def test_ssim_is_that_of_scikit_image_on_the_displayed_maps(signed):
    a = torch.randn(3, 15, 20)
    b = torch.randn(3, 15, 20) + a
    theirs = [
        structural_similarity(one.numpy(), two.numpy(), data_range=1.0 + signed)
        for one, two in zip(normalize(a.double(), signed), normalize(b.double(), signed), strict=True)
    ]
    assert ssim(a, b, signed).tolist() == pytest.approx(theirs, abs=1e-12)


def test_constant_and_broken_maps_have_no_correlation_but_words():
    def explanation(values):
        return Explanation(
            attribution=values,
            method="grad_cam",
            model="m",
            image=Image.new("RGB", (8, 8)),
            input_size=(8, 8),
            target={},
            signed=False,
        )

    flat, real = explanation(torch.zeros(4, 4)), explanation(torch.rand(4, 4))
    assert "constant" in CascadingRandomization(flat, [RandomizationStep("head", real, None, None)]).verdict
    assert CascadingRandomization(real, [RandomizationStep("head", None, None, None)]).verdict == ""
    assert CascadingRandomization(real, [RandomizationStep("head", flat, None, None)]).verdict == ""
    nearly = RandomizationStep("head", explanation(real.attribution + 1e-6), 0.97, None)
    assert "hardly" in CascadingRandomization(real, [nearly]).verdict


def test_impossible_questions_cost_one_line(image):
    with pytest.raises(OptionError, match="2 or more"):
        randomization_test(toy_cnn(), image, ["lafam"], steps=1)
    function = seewhy.wrap_function(lambda x: x.mean((2, 3)), classes=3)
    with pytest.raises(RequirementError, match="no weights"):
        randomization_test(function, image, ["occlusion"], 0)


def test_the_figure_is_red_where_a_method_does_not_change(image):
    edges, cam = randomization_test(toy_cnn(), image, [Edges, "saliency"], "cat", steps=2)

    def reds(cascade):
        pixels = np.array(randomization_figure([cascade], "t"))
        return (pixels == [192, 0, 0]).all(-1).sum()

    assert reds(edges) > 20
    assert reds(cam) == 0


def test_the_command_writes_the_figure_and_says_so(image, monkeypatch, tmp_path, capsys):
    from seewhy.cli import main

    image.save(tmp_path / "cat.png")
    monkeypatch.setattr("seewhy.cli.loading.Loading.model", lambda *_: toy_cnn())
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "seewhy",
            "randomization-test",
            str(tmp_path / "cat.png"),
            "-M",
            "grad_cam",
            "-M",
            "saliency",
            "--steps",
            "3",
            "--json",
            "-o",
            str(tmp_path / "new" / "s.png"),
        ],
    )
    with pytest.raises(SystemExit):
        main()
    about = json.loads(capsys.readouterr().out)
    assert [m["method"] for m in about["methods"]] == ["grad_cam", "saliency"]
    assert about["methods"][0]["steps"][0]["layer"] == "head"
    assert Image.open(about["figure"]).width > 600
