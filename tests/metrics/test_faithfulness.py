"""Faithfulness against slow literal versions, on linear models with closed forms, and what all its metrics promise."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from toys import batch, toy_cnn, toy_vit

import seewhy
from seewhy.errors import OptionError, TargetError
from seewhy.metrics import (
    METRICS,
    ROAD,
    BoxDiscrimination,
    BoxSensitivity,
    Deletion,
    Fidelity,
    FidelityDiscrimination,
    Given,
    IDScore,
    Infidelity,
    Insertion,
)
from seewhy.metrics.faithfulness.imputation import impute
from seewhy.models.adapter import Structure, VisionModel
from seewhy.preprocess import Preprocess
from seewhy.targets import Custom, Similarity

CLASSES = [3, 1]
SMALL = {
    "fidelity": {"steps": 5}, "fidelity_discrimination": {"steps": 5},
    "box_sensitivity": {"sizes": (3, 9, 20), "draws": 7}, "box_discrimination": {"sizes": (3, 9, 20), "draws": 7},
    "infidelity": {"sizes": (3, 9), "draws": 7}, "insertion": {"steps": 6}, "deletion": {"steps": 6},
    "id_score": {"steps": 6}, "road": {"percentages": (10, 40, 85)},
}
OURS = {cls.card.name: cls for cls in METRICS if cls.card.property == "faithfulness"}
every = pytest.mark.parametrize("name", sorted(OURS))


def small(name, **options):
    return OURS[name](**{**SMALL[name], **options})


def test_every_metric_of_the_folder_is_tested_here():
    assert set(OURS) == set(SMALL)


@pytest.fixture(params=[toy_cnn, toy_vit], ids=["cnn", "vit"])
def model(request):
    model = request.param()
    model.module.double().eval()
    return model


@pytest.fixture
def x():
    return batch().double()


def some_maps(n=2, seed=5):
    return torch.randn(n, 32, 48, generator=torch.Generator().manual_seed(seed)).double()


def known(model, x, target=CLASSES, n=None):
    return Given(model=model, x=x, target=target, rivals=some_maps(len(x) if n is None else n, seed=6))


@contextmanager
def counting(model):
    seen = []
    handle = model.module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        yield seen
    finally:
        handle.remove()


# ── literal versions ──────────────────────────────────────────────────────────────────────────────────────────────────


def ask(model, image, c):
    with torch.no_grad():
        return model.module(image[None])[0, c].item()


def chance(model, image, c):
    with torch.no_grad():
        return model.module(image[None])[0].softmax(0)[c].item()


def blurred(x):
    """σ = 14 px at 224: 2 px at 32."""
    return torch.stack([torch.stack([torch.from_numpy(gaussian_filter(c.numpy(), 2.0, mode="nearest", truncate=3.0))
                                     for c in image]) for image in x])


def literal_curve(read, image, base, map, c, steps, first):
    values = map.flatten().tolist()
    sign = -1 if first == "most" else 1
    order = sorted(range(len(values)), key=lambda i: (sign * values[i], i))
    curve = []
    for k in range(steps + 1):
        changed = image.clone().flatten(1)
        for i in order[: round(k * len(values) / steps)]:
            changed[:, i] = base.flatten(1)[:, i]
        curve.append(read(changed.view_as(image), c))
    return curve


def test_fidelity_is_the_literal_area_between_the_curves(model, x):
    maps, steps = some_maps(), 6
    found = Fidelity(steps=steps).measure(maps, known(model, x))
    for i, c in enumerate(CLASSES):
        mif = literal_curve(lambda v, c: ask(model, v, c), x[i], blurred(x)[i], maps[i], c, steps, "most")
        lif = literal_curve(lambda v, c: ask(model, v, c), x[i], blurred(x)[i], maps[i], c, steps, "least")
        assert found.curves["mif"][i].tolist() == pytest.approx(mif, rel=1e-9)
        assert found.curves["lif"][i].tolist() == pytest.approx(lif, rel=1e-9)
        areas = [np.trapezoid(curve, dx=100 / steps) for curve in (mif, lif)]
        assert found.parts["mif"][i].item() == pytest.approx(areas[0], rel=1e-9)
        assert found.parts["lif"][i].item() == pytest.approx(areas[1], rel=1e-9)
        assert found.value[i].item() == pytest.approx(areas[1] - areas[0], abs=1e-9)


@pytest.mark.parametrize(("first", "start"), [("zero", "zero"), ("black", "blur")])
def test_insertion_and_deletion_are_literal_areas_of_the_probability(model, x, first, start):
    maps, steps = some_maps(), 7
    bases = {"zero": torch.zeros_like(x), "blur": blurred(x),
             "black": torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]).double()[:, None, None] + 0 * x}
    found = IDScore(steps=steps, baseline=first, start=start).measure(maps, known(model, x))
    for i, c in enumerate(CLASSES):
        deletion = literal_curve(lambda v, c: chance(model, v, c), x[i], bases[first][i], maps[i], c, steps, "most")
        insertion = literal_curve(lambda v, c: chance(model, v, c), bases[start][i], x[i], maps[i], c, steps, "most")
        areas = [np.trapezoid(curve, dx=1 / steps) for curve in (insertion, deletion)]
        assert found.curves["deletion"][i].tolist() == pytest.approx(deletion, rel=1e-6)
        assert found.curves["insertion"][i].tolist() == pytest.approx(insertion, rel=1e-6)
        assert found.value[i].item() == pytest.approx(areas[0] - areas[1], abs=1e-7)
    given = known(model, x)
    assert Insertion(steps=steps, baseline=start)(maps, given).equal(found.parts["insertion"])
    assert Deletion(steps=steps, baseline=first)(maps, given).equal(found.parts["deletion"])


def boxes_of(metric, size):
    """The corners, checked for lying inside."""
    side, corners = metric.boxes((32, 48), size)
    assert side == max(1, round(size * 32 / 28))
    assert all(0 <= top <= 32 - side and 0 <= left <= 48 - side for top, left in corners.tolist())
    return [(slice(top, top + side), slice(left, left + side)) for top, left in corners.tolist()]


def test_box_sensitivity_is_the_literal_area_under_the_correlations(model, x):
    maps, base = some_maps(), blurred(x)
    metric = BoxSensitivity(sizes=(1, 7, 20), draws=12, seed=4)
    found = metric.measure(maps, known(model, x))
    for i, c in enumerate(CLASSES):
        curve = []
        for size in metric.sizes:
            sums, losses = [], []
            for box in boxes_of(metric, size):
                changed = x[i].clone()
                changed[:, *box] = base[i][:, *box]
                sums.append(maps[i][box].sum().item())
                losses.append(ask(model, x[i], c) - ask(model, changed, c))
            curve.append(np.corrcoef(sums, losses)[0, 1])
        assert found.curves[""][i].tolist() == pytest.approx(curve, abs=1e-7)
        assert found.value[i].item() == pytest.approx(np.trapezoid(curve, [1, 7, 20]), abs=1e-6)


@pytest.mark.parametrize("scale", ["none", "best"])
@pytest.mark.parametrize("times", ["change", "map"])
def test_infidelity_is_the_literal_error(model, x, scale, times):
    maps = some_maps()
    metric = Infidelity(sizes=(3, 10), draws=8, scale=scale, times=times, baseline="zero")
    found = metric(maps, known(model, x))
    for i, c in enumerate(CLASSES):
        forecast, losses = [], []
        for size in metric.sizes:
            for box in boxes_of(metric, size):
                removed = torch.zeros_like(x[i])
                removed[:, *box] = x[i][:, *box]
                losses.append(ask(model, x[i], c) - ask(model, x[i] - removed, c))
                forecast.append((maps[i] * removed).sum().item() if times == "change" else maps[i][box].sum().item())
        a, b = np.array(forecast), np.array(losses)
        beta = 1.0 if scale == "none" else (a * b).mean() / (a * a).mean()
        assert found[i].item() == pytest.approx(((beta * a - b) ** 2).mean(), rel=1e-7)


def literal_imputation(image, gone):
    """The dense system, one equation for each removed pixel."""
    rows, cols = gone.shape
    places = [tuple(p) for p in gone.nonzero().tolist()]
    system, right = torch.zeros(len(places), len(places)).double(), torch.zeros(len(places), len(image)).double()
    for e, (r, c) in enumerate(places):
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                near = (r + dr, c + dc)
                if (dr, dc) == (0, 0) or not (0 <= near[0] < rows and 0 <= near[1] < cols):
                    continue
                weight = 1 / 12 if dr and dc else 1 / 6
                system[e, e] += weight
                if gone[near]:
                    system[e, places.index(near)] -= weight
                else:
                    right[e] += weight * image[:, *near]
    filled = image.clone()
    for (r, c), value in zip(places, torch.linalg.solve(system, right), strict=True):
        filled[:, r, c] = value
    return filled


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_removed_pixel_is_the_mean_of_its_neighbours(share):
    image = batch(1)[0, :, :14, :11].double()
    gone = torch.rand(14, 11, generator=torch.Generator().manual_seed(1)) < share
    both = torch.stack([gone, gone.flip(0)])
    found = impute(image, both, tolerance=1e-10)
    for i in range(2):
        assert torch.allclose(found[i], literal_imputation(image, both[i]), atol=1e-8)
    assert torch.equal(found[0][:, ~gone], image[:, ~gone])


def test_imputation_of_nothing_and_of_everything():
    image = batch(1)[0].double()
    gone = torch.stack([torch.zeros(32, 48, dtype=torch.bool), torch.ones(32, 48, dtype=torch.bool)])
    found = impute(image, gone)
    assert torch.equal(found[0], image)
    assert torch.allclose(found[1], image.mean((1, 2))[:, None, None].expand_as(image))


def test_road_removes_by_rank_imputes_and_reads_the_probability(model, x):
    maps = torch.zeros(2, 32, 48).double()
    maps[:, 10:12, 10:14] = some_maps()[:, 10:12, 10:14].abs()  # zero nearly everywhere: by value, all would go
    metric = ROAD(percentages=(20, 60), noise=0.05, seed=3)
    found = metric.measure(maps, known(model, x))
    noise = 0.05 * torch.randn(3, 32, 48, generator=torch.Generator().manual_seed(3)).double()
    for i, c in enumerate(CLASSES):
        for name, sign in (("morf", -1), ("lerf", 1)):
            order = sorted(range(32 * 48), key=lambda p, i=i, sign=sign: (sign * maps[i].flatten()[p].item(), p))
            for k, percent in enumerate(metric.percentages):
                gone = torch.zeros(32 * 48, dtype=torch.bool)
                gone[order[: int(32 * 48 * percent / 100)]] = True
                gone = gone.view(32, 48)
                assert gone.sum() == int(1536 * percent / 100)
                image = torch.where(gone, impute(x[i], gone[None], tolerance=1e-9)[0] + noise, x[i])
                assert found.curves[name][i, k].item() == pytest.approx(chance(model, image, c), rel=2e-4)
    want = (found.curves["lerf"] - found.curves["morf"]).mean(1) / 2
    assert torch.allclose(found.value, want)


def test_class_discrimination_takes_the_rivals_map_for_the_same_score(model, x):
    maps, given = some_maps(), known(model, x)
    for plain, delta in ((Fidelity(steps=5), FidelityDiscrimination(steps=5)),
                         (BoxSensitivity(**SMALL["box_sensitivity"]), BoxDiscrimination(**SMALL["box_sensitivity"]))):
        found = delta.measure(maps, given)
        own, rival = plain(maps, known(model, x)), plain(given.rivals, known(model, x))
        assert torch.allclose(found.parts["own"], own)
        assert torch.allclose(found.parts["rival"], rival)
        assert torch.allclose(found.value, own - rival)
        same = delta(maps, model=model, x=x, target=CLASSES, rivals=maps)
        assert torch.equal(same, torch.zeros(2).double())


# ── closed forms ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Linear(nn.Module):
    """f_c = Σ w_c x."""

    def __init__(self, same_for_channels=False):
        super().__init__()
        weight = torch.randn(4, 1 if same_for_channels else 3, 32, 48, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(weight.expand(4, 3, 32, 48).double().clone())

    def forward(self, x):
        return torch.einsum("bchw,kchw->bk", x, self.weight)


def linear(**options):
    structure = Structure("toy", has_logits=True, has_embedding=False, classes=4,
                          read=lambda raw, _: seewhy.targets.Output(logits=raw))
    return VisionModel(Linear(**options), structure, preprocess=Preprocess(size=(32, 48), resize=None))


def contributions(model, x, base):
    return torch.stack([(model.module.weight[c].detach() * (x[i] - base[i])).sum(0) for i, c in enumerate(CLASSES)])


def test_exact_contributions_reach_the_bound_of_box_sensitivity(x):
    model = linear()
    exact = contributions(model, x, blurred(x))
    given = known(model, x)
    for sign in (1, -1):
        found = BoxSensitivity().measure(sign * exact, given)
        assert found.curves[""].tolist() == pytest.approx(np.full((2, 10), sign), abs=1e-9)
        assert found.value.tolist() == pytest.approx([26 * sign] * 2, abs=1e-7)


def test_exact_contributions_give_the_closed_form_of_fidelity_and_beat_every_other_map(x):
    model, steps = linear(), 8
    exact = contributions(model, x, blurred(x))
    whole = torch.stack([(model.module.weight[c].detach() * x[i]).sum() for i, c in enumerate(CLASSES)])
    found = Fidelity(steps=steps).measure(exact, known(model, x))
    counts = torch.arange(steps + 1) * 1536 // steps
    for name, descending in (("mif", True), ("lif", False)):
        gone = exact.flatten(1).sort(1, descending=descending).values.cumsum(1)
        want = whole[:, None] - torch.nn.functional.pad(gone, (1, 0))[:, counts]
        assert torch.allclose(found.curves[name], want, atol=1e-8)
    assert (found.value > Fidelity(steps=steps)(some_maps(), known(model, x))).all()


def test_infidelity_of_what_is_true_is_zero(x):
    model = linear()
    exact = contributions(model, x, blurred(x))
    given = known(model, x)
    assert Infidelity(times="map", scale="none")(exact, given).max() < 1e-16
    assert Infidelity(times="map", scale="best")(7 * exact, given).max() < 1e-16
    assert Infidelity(times="map", scale="none")(7 * exact, given).min() > 1e-3
    model = linear(same_for_channels=True)
    gradient = torch.stack([model.module.weight[c, 0].detach() for c in CLASSES])
    assert Infidelity(scale="none")(gradient, known(model, x)).max() < 1e-16


# ── ties and maps that say nothing ────────────────────────────────────────────────────────────────────────────────────


def test_a_constant_map_is_worth_nothing(model, x):
    flat = torch.full((2, 32, 48), 0.3).double()
    nearly = flat.float() * (1 + 1e-7 * torch.randn(2, 32, 48))
    for map in (flat, 0 * flat):
        assert Fidelity(steps=5)(map, known(model, x)).tolist() == [0, 0]
        assert ROAD(percentages=(20, 60))(map, known(model, x)).tolist() == [0, 0]
    for map in (flat, 0 * flat, nearly):
        assert small("box_sensitivity")(map, known(model, x)).tolist() == [0, 0]
    zero = Infidelity(sizes=(3,), draws=5)(0 * flat, known(model, x))
    assert torch.isfinite(zero).all()


def test_a_model_that_does_not_care_cannot_be_followed(x):
    model = linear()
    with torch.no_grad():
        model.module.weight.zero_()
    assert small("box_sensitivity")(some_maps(), known(model, x)).tolist() == [0, 0]
    assert Fidelity(steps=4)(some_maps(), known(model, x)).tolist() == [0, 0]


def test_a_large_offset_takes_nothing_from_box_sensitivity(model, x):
    given, maps, metric = known(model, x), some_maps(), small("box_sensitivity")
    assert torch.allclose(metric(maps, given), metric(maps + 1000, given), atol=1e-6)


# ── what all of them promise ──────────────────────────────────────────────────────────────────────────────────────────


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
        "fidelity": 40, "fidelity_discrimination": 78, "box_sensitivity": 1001, "box_discrimination": 1001,
        "infidelity": 301, "insertion": 225, "deletion": 225, "id_score": 448, "road": 18}
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
        for name in OURS:
            assert torch.allclose(small(name)(m, given), small(name)(m, known(model, batch())), atol=1e-6), name


@every
def test_a_batch_gives_what_its_images_give_alone(name, model):
    x, maps, metric = batch(3).double(), some_maps(3), small(name)
    given = known(model, x, [3, 1, 0])
    together = metric.measure(maps, given)
    other = small(name, batch_size=5).measure(maps, known(model, x, [3, 1, 0]))
    for i in range(3):
        one = Given(model=model, x=x[i : i + 1], target=[[3, 1, 0][i]], rivals=given.rivals[i : i + 1])
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
def test_a_bad_map_is_struck_out_and_its_neighbours_do_not_notice(name, model):
    x, maps, metric = batch(3).double(), some_maps(3), small(name)
    rivals = some_maps(3, seed=6)
    good = metric(maps, Given(model=model, x=x, target=[3, 1, 0], rivals=rivals))
    broken = maps.clone()
    broken[1, 3, 3] = torch.nan
    given = Given(model=model, x=x, target=[3, 1, 0], rivals=rivals)
    found = metric.measure(broken, given)
    assert found.reasons == {1: "the map holds NaN or infinity"}
    assert found.value.isnan().tolist() == [False, True, False]
    assert all(v.isnan().tolist() == [False, True, False] for v in found.parts.values())
    assert torch.allclose(found.value[[0, 2]], good[[0, 2]], atol=1e-9)
    with counting(model) as seen:
        assert metric(torch.full_like(maps, torch.nan), given).isnan().all()
    assert not seen
    rivals = rivals.clone()
    rivals[2] = torch.nan
    found = metric.measure(maps, Given(model=model, x=x, target=[3, 1, 0], rivals=rivals))
    assert found.reasons == ({2: "the image shows no second class"} if "discrimination" in name else {})


@every
def test_scores_that_are_not_finite_are_no_scores(name, x):
    model = linear()
    x = x.clone()
    x[1, 0, 5, 5] = torch.inf
    found = small(name).measure(some_maps(), known(model, x))
    assert found.value.isnan().tolist() == [False, True]
    assert found.reasons == {1: "the model's score of a perturbed image is NaN or infinite"}


def test_accuracy_of_a_model_that_answers_nan_is_nan(x):
    model = linear()
    with torch.no_grad():
        model.module.weight[2] = torch.nan
    found = ROAD(percentages=(20, 60), read="accuracy").measure(some_maps(), known(model, x))
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
        one = Given(model=inner, x=x[1:], target=Similarity(vectors[1]) if target.__class__ is Similarity else
                    target[1] if isinstance(target, list) else target, rivals=some_maps(seed=6)[1:])
        assert both[1].item() == pytest.approx(small(name)(maps[1:], one).item(), abs=1e-5)


def test_a_target_that_does_not_fit_the_batch():
    with pytest.raises(TargetError, match="3 targets for 2 images"):
        Fidelity()(some_maps(), model=toy_cnn(), x=batch(), target=[1, 2, 3])
    with pytest.raises(TargetError, match="out of range"):
        Fidelity()(some_maps(), model=toy_cnn(), x=batch(), target=7)


def test_options_that_cannot_work():
    for cls, options, match in [
        (Fidelity, {"steps": 0}, "use 1 or more"), (Fidelity, {"baseline": "grass"}, "not one of black"),
        (IDScore, {"start": "grass"}, "not one of black"), (BoxSensitivity, {"sizes": (3,)}, "2 or more increasing"),
        (BoxSensitivity, {"sizes": (3, 2)}, "increasing"), (BoxSensitivity, {"sizes": (3, 29)}, "to 28"),
        (BoxSensitivity, {"draws": 1}, "use 2 or more"), (ROAD, {"percentages": (10, 120)}, "to 100"),
        (ROAD, {"read": "luck"}, "not one of"), (Infidelity, {"scale": "worst"}, "not one of"),
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
