"""What every metric of faithfulness promises: passes, batches, invariances, bad maps and models, a model left alone."""

from __future__ import annotations

import pytest
import torch
from faithful import OURS, SMALL, counting, every, known, linear, small, some_maps
from toys import batch, toy_cnn

import seewhy
from seewhy.errors import OptionError, TargetError
from seewhy.metrics import (
    ROAD,
    BoxSensitivity,
    Deletion,
    Fidelity,
    IDScore,
    Infidelity,
    MetricInputs,
)
from seewhy.targets import Custom, Similarity


def test_every_metric_of_the_folder_is_tested_here():
    assert set(OURS) == set(SMALL)


@every
@pytest.mark.parametrize("images", [1, 3])
def test_the_card_says_how_many_passes_a_map_costs(name, images):
    model, metric = toy_cnn(), small(name, batch_size=4)
    given = known(model, batch(images), [1] * images)
    with counting(model) as seen:
        metric(some_maps(images), given)
    assert sum(seen) == images * metric.passes
    assert max(seen) <= 4


def test_passes_at_the_defaults():
    assert {name: cls().passes for name, cls in OURS.items()} == {
        "fidelity": 40,
        "fidelity_discrimination": 78,
        "box_sensitivity": 1001,
        "box_discrimination": 1001,
        "infidelity": 301,
        "insertion": 225,
        "deletion": 225,
        "id_score": 448,
        "road": 18,
    }
    assert IDScore(start="blur").passes == 449


def test_no_pass_is_made_twice():
    model, maps, other = toy_cnn(), some_maps(), some_maps(seed=9)
    given = known(model, batch())

    def cost(name, maps, **options):
        with counting(model) as seen:
            small(name, **options)(maps, given)
        return sum(seen) / 2

    assert cost("fidelity", maps) == 10
    assert cost("fidelity_discrimination", maps) == 8  # the rival's two curves, without their ends
    assert cost("fidelity", other) == 8
    assert cost("fidelity", maps) == 8  # only the last map is remembered
    maps += some_maps(seed=10)  # in place: the same tensor, another map
    assert cost("fidelity", maps) == 8
    assert cost("id_score", maps) == 12  # with its ends: zero and probability have not been asked before
    assert cost("insertion", maps) == cost("deletion", maps) == 0
    assert cost("box_sensitivity", maps) == 21
    assert cost("box_sensitivity", other) == cost("box_discrimination", other) == cost("infidelity", maps) == 0
    assert cost("infidelity", maps, baseline="zero") == 14


def test_what_was_remembered_is_what_is_computed():
    model, maps, other = toy_cnn(), some_maps(), some_maps(seed=9)
    given = known(model, batch())
    for m in (maps, other, maps, other[:, ::2].repeat_interleave(2, 1), maps.flip(0)):
        for name in set(OURS) - {"road"}:  # which remembers nothing
            assert torch.allclose(small(name)(m, given), small(name)(m, known(model, batch())), atol=1e-6), name


@every
def test_a_batch_gives_what_its_images_give_alone(name, model):
    x, maps, metric = batch(3).double(), some_maps(3), small(name)
    given = known(model, x, [3, 1, 0])
    together = metric.measure(maps, given)
    other = small(name, batch_size=5).measure(maps, known(model, x, [3, 1, 0]))
    for i in range(3):
        one = MetricInputs(
            model=model, x=x[i : i + 1], target=[[3, 1, 0][i]], contrast_maps=given.contrast_maps[i : i + 1]
        )
        alone = metric.measure(maps[i : i + 1], one)
        # the solver of ROAD stops all variants of a pass together
        tolerance = 1e-5 if name == "road" else 1e-9
        assert alone.value.item() == pytest.approx(together.value[i].item(), abs=tolerance)
        assert other.value[i].item() == pytest.approx(together.value[i].item(), abs=tolerance)
        for part, values in together.parts.items():
            assert alone.parts[part].item() == pytest.approx(values[i].item(), abs=tolerance)


@every
def test_invariances_are_as_declared(name, x):
    model, metric, maps = toy_cnn().to("cpu"), small(name), some_maps()
    model.module.double()
    value = metric(maps, known(model, x))
    cubed, scaled = metric(maps**3 + maps, known(model, x)), metric(8 * maps, known(model, x))
    assert torch.allclose(cubed, value, atol=1e-12) == metric.card.monotone_invariant
    assert torch.allclose(scaled, value, atol=1e-12) == metric.card.scale_invariant


def test_infidelity_without_a_scale_is_not_scale_invariant(model, x):
    metric, given = small("infidelity", scale="none"), known(model, x)
    assert not torch.allclose(metric(some_maps(), given), metric(2 * some_maps(), given))


@every
def test_curves_lie_on_the_axis_and_hold_the_value(name, model, x):
    metric = small(name)
    found = metric.measure(some_maps(), known(model, x))
    assert set(found.parts) == set(metric.card.parts)
    assert found.value.dtype == torch.float64
    assert set(found.curves) == (set() if name == "infidelity" else {"", *metric.card.parts})
    low, high = metric.card.bounds
    assert all((low is None or v >= low) and (high is None or v <= high) for v in found.value.tolist())
    for part, curve in found.curves.items():
        assert curve.shape == (2, len(metric.axis))
        total = curve.mean(1) if name == "road" else torch.trapezoid(curve, torch.tensor(metric.axis), dim=1)
        assert torch.allclose(total, found.parts[part] if part else found.value, atol=1e-9)
    assert metric.axis_title


@every
def test_a_bad_map_is_struck_out_and_its_neighbors_do_not_notice(name, model):
    x, maps, metric = batch(3).double(), some_maps(3), small(name)
    contrast_maps = some_maps(3, seed=6)
    good = metric(maps, MetricInputs(model=model, x=x, target=[3, 1, 0], contrast_maps=contrast_maps))
    broken = maps.clone()
    broken[1, 3, 3] = torch.nan
    given = MetricInputs(model=model, x=x, target=[3, 1, 0], contrast_maps=contrast_maps)
    found = metric.measure(broken, given)
    assert found.reasons == {1: "the map holds NaN or infinity"}
    assert found.value.isnan().tolist() == [False, True, False]
    assert all(v.isnan().tolist() == [False, True, False] for v in found.parts.values())
    assert torch.allclose(found.value[[0, 2]], good[[0, 2]], atol=1e-9)
    with counting(model) as seen:
        assert metric(torch.full_like(maps, torch.nan), given).isnan().all()
    assert not seen
    contrast_maps = contrast_maps.clone()
    contrast_maps[2] = torch.nan
    found = metric.measure(maps, MetricInputs(model=model, x=x, target=[3, 1, 0], contrast_maps=contrast_maps))
    assert found.reasons == ({2: "the image shows no second class"} if "discrimination" in name else {})


@every
def test_scores_that_are_not_finite_are_no_scores(name, x):
    model = linear()
    x = x.clone()
    x[1, 0, 5, 5] = torch.inf
    for maps in (some_maps(), torch.ones(2, 32, 48)):
        found = small(name).measure(maps, known(model, x))
        assert found.value.isnan().tolist() == [False, True]
        assert found.reasons == {1: "the model's score of a perturbed image is NaN or infinite"}


def test_accuracy_of_a_model_that_answers_nan_is_nan(x):
    model = linear()
    with torch.no_grad():
        model.module.weight[2] = torch.nan
    found = ROAD(percentages=(20, 60), read_out="accuracy").measure(some_maps(), known(model, x))
    assert found.value.isnan().all()


@every
def test_the_model_and_the_random_state_are_left_as_they_were(name):
    model, x, maps = toy_cnn(), batch(), some_maps()
    model.module.train()
    model.module.stage1.eval()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    modes = [m.training for m in model.module.modules()]
    copies, state = (x.clone(), maps.clone()), torch.get_rng_state()
    small(name)(maps, known(model, x))
    assert modes == [m.training for m in model.module.modules()]
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.module.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, copies[0])
    assert torch.equal(maps, copies[1])


@every
def test_autocast_around_it_changes_nothing(name):
    model, x, maps = toy_cnn(), batch(), some_maps()
    plain = small(name)(maps, known(model, x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(small(name)(maps, known(model, x)), plain)


@every
def test_black_boxes_and_any_target(name):
    inner, x, maps = toy_cnn(), batch(), some_maps()
    box = seewhy.wrap_function(lambda images: inner.module.eval()(images), classes=5)
    want = small(name)(maps, known(inner, x))
    assert torch.allclose(small(name)(maps, known(box, x)), want, atol=1e-6)
    assert torch.isfinite(small(name)(maps, known(inner, x, None))).all()  # the model's own answer
    vectors = torch.randn(2, 8)
    for target in (Similarity(vectors), Custom(lambda logits: logits[:, 0] - logits[:, 1]), ["bee", "top-2"]):
        both = small(name)(maps, known(inner, x, target))
        one = MetricInputs(
            model=inner,
            x=x[1:],
            target=Similarity(vectors[1])
            if target.__class__ is Similarity
            else target[1]
            if isinstance(target, list)
            else target,
            contrast_maps=some_maps(seed=6)[1:],
        )
        assert both[1].item() == pytest.approx(small(name)(maps[1:], one).item(), abs=1e-5)


def test_a_target_that_does_not_fit_the_batch():
    with pytest.raises(TargetError, match="3 targets for 2 images"):
        Fidelity()(some_maps(), model=toy_cnn(), x=batch(), target=[1, 2, 3])
    with pytest.raises(TargetError, match="out of range"):
        Fidelity()(some_maps(), model=toy_cnn(), x=batch(), target=7)


def test_options_that_cannot_work():
    for cls, options, match in [
        (Fidelity, {"n_steps": 0}, "use 1 or more"),
        (Fidelity, {"baseline": "grass"}, "unknown baseline .grass.; use black"),
        (IDScore, {"start": "grass"}, "unknown baseline .grass.; use black"),
        (BoxSensitivity, {"sizes": (3,)}, "2 or more increasing"),
        (BoxSensitivity, {"sizes": (3, 2)}, "increasing"),
        (BoxSensitivity, {"sizes": (3, 29)}, "to 28"),
        (BoxSensitivity, {"n_samples": 1}, "use 2 or more"),
        (ROAD, {"percentages": (10, 120)}, "to 100"),
        (ROAD, {"read_out": "luck"}, "not one of"),
        (Infidelity, {"scale": "worst"}, "not one of"),
        (Deletion, {"batch_size": 0}, "use 1 or more"),
    ]:
        with pytest.raises(OptionError, match=match):
            cls(**options)
    assert BoxSensitivity(sizes=[1, 2.5]).sizes == (1, 2.5)  # lists of a TOML plan
    assert len(BoxSensitivity(sizes=range(1, 28)).sizes) == 27


def test_another_seed_draws_other_boxes_and_the_same_seed_the_same(model, x):
    values = [small("box_sensitivity", seed=s)(some_maps(), known(model, x)) for s in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
