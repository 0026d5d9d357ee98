"""Model randomization: against Quantus' MPRT with the same random weights, a literal cascade, and known answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import toys
from scipy.stats import spearmanr
from toys import NO_PASSES, Edges

import seewhy.models.instrument.randomize
from seewhy.core.maps import resize_maps
from seewhy.errors import NonFiniteError, OptionError
from seewhy.methods import METHODS
from seewhy.methods.base import Method, method
from seewhy.metrics import Randomization


def measured(metric, model, tool, target=(0, 1, 2), x=None, maps=None):
    x = toys.batch(len(target)) if x is None else x
    maps = resize_maps(tool(x, list(target)), x.shape[-2:]) if maps is None else maps
    return metric.measure(maps, model=model, x=x, target=list(target), method=tool)


def test_a_method_that_ignores_the_weights_keeps_its_map_and_gradients_do_not():
    model = toys.toy_cnn()
    edges = measured(Randomization(n_steps=3), model, Edges(model))
    assert edges.value.tolist() == pytest.approx([1, 1, 1])
    assert edges.parts["ssim"].tolist() == edges.parts["untrained"].tolist() == pytest.approx([1, 1, 1])
    saliency = measured(Randomization(n_steps=3), model, METHODS["saliency"](model))
    assert (saliency.value < 0.6).all()


@pytest.mark.parametrize("name", ["saliency", "input_x_gradient"])
def test_each_stage_is_that_of_quantus_with_the_same_random_weights(name, monkeypatch):
    """Quantus seeds every layer with seed + 1, we give each its own; otherwise both cascades are the same."""
    quantus = pytest.importorskip("quantus")
    model, x = toys.toy_cnn(), toys.batch(3)
    tool = METHODS[name](model)
    original = seewhy.models.instrument.randomize.reinitialize
    monkeypatch.setattr(seewhy.models.instrument.randomize, "reinitialize", lambda module, seed: original(module, 43))

    def explain(model, inputs, targets, **_):
        other = copy.copy(tool.model)
        other.module = model
        inputs = torch.as_tensor(np.asarray(inputs))
        return METHODS[name](other)(inputs, np.asarray(targets).tolist())[:, None].numpy()

    theirs = quantus.MPRT(
        layer_order="top_down",
        seed=42,
        disable_warnings=True,
        abs=False,
        normalise=False,  # codespell:ignore
        similarity_func=quantus.correlation_spearman,
    )(
        model=copy.deepcopy(model.module),
        x_batch=x.numpy(),
        y_batch=np.array([0, 1, 2]),
        a_batch=None,
        explain_func=explain,
    )
    assert theirs.pop("original") == pytest.approx([1, 1, 1])  # counted by their average, not by ours
    ours = measured(Randomization(n_steps=5), model, tool)
    assert list(theirs) == ["head", "stage2.1", "stage2.0", "stage1.1", "stage1.0"]
    torch.testing.assert_close(
        ours.curves[""], torch.tensor(list(theirs.values()), dtype=torch.float64).T, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(ours.value, ours.curves[""].mean(1))
    torch.testing.assert_close(ours.parts["untrained"], ours.curves[""][:, -1])


@pytest.mark.parametrize("make", [toys.toy_cnn, toys.toy_vit])
def test_it_is_the_literal_cascade_on_the_maps_size(make):
    model, x = make(), toys.batch(2)
    tool = METHODS["grad_cam"](model, relu=False)
    found = measured(Randomization(n_steps=2, seed=5), model, tool, (0, 3), x)
    random = copy.deepcopy(model)
    trained = resize_maps(tool(x, [0, 3]), (32, 48))
    for number, name in enumerate(seewhy.models.instrument.randomize.parametrized_modules(model, x)):
        seewhy.models.instrument.randomize.reinitialize(random.module.get_submodule(name), 5 + number)
        if number == 0:
            head = resize_maps(METHODS["grad_cam"](random, relu=False)(x, [0, 3]), (32, 48))
    last = resize_maps(METHODS["grad_cam"](random, relu=False)(x, [0, 3]), (32, 48))
    literal = [
        [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(trained, other, strict=True)]
        for other in (head, last)
    ]
    torch.testing.assert_close(found.curves[""], torch.tensor(literal, dtype=torch.float64).T)


def test_the_way_to_the_images_size_is_an_option():
    """LaFAM of the first stage does not change while later ones do, if both maps are enlarged alike."""
    model = toys.toy_cnn()
    tool, x = METHODS["lafam"](model, layer="stage1"), toys.batch(2)
    maps = resize_maps(tool(x), (32, 48), "nearest")
    curves = [
        measured(Randomization(n_steps=5, upsampling=mode), model, tool, (0, 0), x, maps).curves[""][:, :3]
        for mode in ("nearest", "bilinear")
    ]
    assert curves[0].flatten().tolist() == pytest.approx([1] * 6)
    assert (curves[1] < 0.99).all()


def test_a_model_with_few_layers_fills_few_points():
    found = measured(Randomization(n_steps=8), model := toys.toy_cnn(), METHODS["saliency"](model))
    assert found.curves[""].isnan().sum(1).tolist() == [3, 3, 3]
    assert torch.isfinite(torch.stack([found.value, *found.parts.values()])).all()
    assert len(Randomization(n_steps=8).axis) == 8


def test_constant_maps_share_nothing_and_a_constant_trained_map_has_no_value():
    model, x = toys.toy_cnn(), toys.batch(2)

    @method(register=False, name="flat", title="Flat", **NO_PASSES)
    class Flat(Method):
        def compute(self, x, target):
            return torch.ones(len(x), 4, 6)

    found = measured(Randomization(n_steps=2), model, Flat(model), (0, 0), x, torch.randn(2, 32, 48))
    assert found.value.tolist() == [0, 0]
    maps = torch.stack([torch.full((32, 48), 0.1), torch.randn(32, 48)])
    found = measured(Randomization(n_steps=2), model, Edges(model), (0, 0), x, maps)
    assert found.reasons == {0: "the map is the same everywhere"}
    assert found.value.isnan().tolist() == [True, False]


def test_an_image_on_which_a_random_model_gives_nan_costs_itself_only():
    model, x = toys.toy_cnn(), toys.batch(3)

    @method(register=False, name="fragile", title="Fragile", **NO_PASSES)
    class Fragile(Method):
        def compute(self, x, target):
            same = torch.equal(self.model.module.stage1[0].weight, model.module.stage1[0].weight)
            maps = x.abs().sum(1)
            if not same and (x == x0).flatten(1).all(1).any():
                raise NonFiniteError("NaN")
            return maps

    x0 = x[1]
    found = measured(Randomization(n_steps=5), model, Fragile(model), (0, 0, 0), x)
    assert found.value.tolist() == pytest.approx([1, 1, 1])
    assert found.curves[""].isnan().sum(1).tolist() == [0, 1, 0]  # the last model only
    assert found.parts["untrained"].isnan().tolist() == [False, True, False]


def test_the_seed_decides_and_the_model_stays():
    model = toys.toy_cnn()
    weights = copy.deepcopy(model.module.state_dict())
    tool = METHODS["saliency"](model)
    one, same, other = (measured(Randomization(n_steps=3, seed=seed), model, tool).value for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert all(torch.equal(weights[k], v) for k, v in model.module.state_dict().items())


def test_impossible_questions():
    with pytest.raises(OptionError, match="2 or more"):
        Randomization(n_steps=1)
    with pytest.raises(OptionError, match="the method that made the map"):
        Randomization()(torch.randn(1, 32, 48), model=toys.toy_cnn(), x=toys.batch(1), target=0)
