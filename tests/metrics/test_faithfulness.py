"""Faithfulness against slow literal versions, on linear models with closed forms, and what all its metrics promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faithful import CLASSES, SMALL, known, linear, small, some_maps
from scipy.ndimage import gaussian_filter
from toys import batch

from seewhy.metrics import (
    ROAD,
    BoxDiscrimination,
    BoxSensitivity,
    Deletion,
    Fidelity,
    FidelityDiscrimination,
    IDScore,
    Infidelity,
    Insertion,
)
from seewhy.metrics.faithfulness.imputation import impute

# ── literal versions ──────────────────────────────────────────────────────────────────────────────────────────────────


def ask(model, image, c):
    with torch.no_grad():
        return model.module(image[None])[0, c].item()


def chance(model, image, c):
    with torch.no_grad():
        return model.module(image[None])[0].softmax(0)[c].item()


def blurred(x):
    """σ = 14 px at 224: 2 px at 32."""
    return torch.stack(
        [
            torch.stack(
                [torch.from_numpy(gaussian_filter(c.numpy(), 2.0, mode="nearest", truncate=3.0)) for c in image]
            )
            for image in x
        ]
    )


def literal_curve(read, image, base, map, c, n_steps, first):
    values = map.flatten().tolist()
    sign = -1 if first == "most" else 1
    order = sorted(range(len(values)), key=lambda i: (sign * values[i], i))
    curve = []
    for k in range(n_steps + 1):
        changed = image.clone().flatten(1)
        for i in order[: round(k * len(values) / n_steps)]:
            changed[:, i] = base.flatten(1)[:, i]
        curve.append(read(changed.view_as(image), c))
    return curve


def test_fidelity_is_the_literal_area_between_the_curves(model, x):
    maps, n_steps = some_maps(), 6
    found = Fidelity(n_steps=n_steps).measure(maps, known(model, x))
    for i, c in enumerate(CLASSES):
        mif = literal_curve(lambda v, c: ask(model, v, c), x[i], blurred(x)[i], maps[i], c, n_steps, "most")
        lif = literal_curve(lambda v, c: ask(model, v, c), x[i], blurred(x)[i], maps[i], c, n_steps, "least")
        assert found.curves["mif"][i].tolist() == pytest.approx(mif, rel=1e-9)
        assert found.curves["lif"][i].tolist() == pytest.approx(lif, rel=1e-9)
        areas = [np.trapezoid(curve, dx=100 / n_steps) for curve in (mif, lif)]
        assert found.parts["mif"][i].item() == pytest.approx(areas[0], rel=1e-9)
        assert found.parts["lif"][i].item() == pytest.approx(areas[1], rel=1e-9)
        assert found.value[i].item() == pytest.approx(areas[1] - areas[0], abs=1e-9)


@pytest.mark.parametrize(("first", "start"), [("zero", "zero"), ("black", "blur")])
def test_insertion_and_deletion_are_literal_areas_of_the_probability(model, x, first, start):
    maps, n_steps = some_maps(), 7
    bases = {
        "zero": torch.zeros_like(x),
        "blur": blurred(x),
        "black": torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]).double()[:, None, None] + 0 * x,
    }
    found = IDScore(n_steps=n_steps, baseline=first, start=start).measure(maps, known(model, x))
    for i, c in enumerate(CLASSES):
        deletion = literal_curve(lambda v, c: chance(model, v, c), x[i], bases[first][i], maps[i], c, n_steps, "most")
        insertion = literal_curve(lambda v, c: chance(model, v, c), bases[start][i], x[i], maps[i], c, n_steps, "most")
        areas = [np.trapezoid(curve, dx=1 / n_steps) for curve in (insertion, deletion)]
        assert found.curves["deletion"][i].tolist() == pytest.approx(deletion, rel=1e-6)
        assert found.curves["insertion"][i].tolist() == pytest.approx(insertion, rel=1e-6)
        assert found.value[i].item() == pytest.approx(areas[0] - areas[1], abs=1e-7)
    given = known(model, x)
    assert Insertion(n_steps=n_steps, baseline=start)(maps, given).equal(found.parts["insertion"])
    assert Deletion(n_steps=n_steps, baseline=first)(maps, given).equal(found.parts["deletion"])


def boxes_of(metric, size):
    """The corners, checked for lying inside."""
    side, corners = metric.boxes(32, 48, size)
    assert side == max(1, round(size * 32 / 28))
    assert all(0 <= top <= 32 - side and 0 <= left <= 48 - side for top, left in corners.tolist())
    return [(slice(top, top + side), slice(left, left + side)) for top, left in corners.tolist()]


def test_box_sensitivity_is_the_literal_area_under_the_correlations(model, x):
    maps, base = some_maps(), blurred(x)
    metric = BoxSensitivity(sizes=(1, 7, 20), n_samples=12, seed=4)
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
    metric = Infidelity(sizes=(3, 10), n_samples=8, scale=scale, times=times, baseline="zero")
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
def test_a_removed_pixel_is_the_mean_of_its_neighbors(share):
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
    for plain, delta in (
        (Fidelity(n_steps=5), FidelityDiscrimination(n_steps=5)),
        (BoxSensitivity(**SMALL["box_sensitivity"]), BoxDiscrimination(**SMALL["box_sensitivity"])),
    ):
        found = delta.measure(maps, given)
        own, rival = plain(maps, known(model, x)), plain(given.contrast_maps, known(model, x))
        assert torch.allclose(found.parts["own"], own)
        assert torch.allclose(found.parts["contrast"], rival)
        assert torch.allclose(found.value, own - rival)
        same = delta(maps, model=model, x=x, target=CLASSES, contrast_maps=maps)
        assert torch.equal(same, torch.zeros(2).double())


# ── closed forms ──────────────────────────────────────────────────────────────────────────────────────────────────────


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
    model, n_steps = linear(), 8
    exact = contributions(model, x, blurred(x))
    whole = torch.stack([(model.module.weight[c].detach() * x[i]).sum() for i, c in enumerate(CLASSES)])
    found = Fidelity(n_steps=n_steps).measure(exact, known(model, x))
    counts = torch.arange(n_steps + 1) * 1536 // n_steps
    for name, descending in (("mif", True), ("lif", False)):
        gone = exact.flatten(1).sort(1, descending=descending).values.cumsum(1)
        want = whole[:, None] - torch.nn.functional.pad(gone, (1, 0))[:, counts]
        assert torch.allclose(found.curves[name], want, atol=1e-8)
    assert (found.value > Fidelity(n_steps=n_steps)(some_maps(), known(model, x))).all()


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
        assert Fidelity(n_steps=5)(map, known(model, x)).tolist() == [0, 0]
        assert ROAD(percentages=(20, 60))(map, known(model, x)).tolist() == [0, 0]
    for map in (flat, 0 * flat, nearly):
        assert small("box_sensitivity")(map, known(model, x)).tolist() == [0, 0]
    zero = Infidelity(sizes=(3,), n_samples=5)(0 * flat, known(model, x))
    assert torch.isfinite(zero).all()


def test_a_model_that_does_not_care_cannot_be_followed(x):
    model = linear()
    with torch.no_grad():
        model.module.weight.zero_()
    assert small("box_sensitivity")(some_maps(), known(model, x)).tolist() == [0, 0]
    assert Fidelity(n_steps=4)(some_maps(), known(model, x)).tolist() == [0, 0]


def test_a_large_offset_takes_nothing_from_box_sensitivity(model, x):
    given, maps, metric = known(model, x), some_maps(), small("box_sensitivity")
    assert torch.allclose(metric(maps, given), metric(maps + 1000, given), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_box_sensitivity_of_values_whose_squares_are_no_numbers(model, x, scale):
    given, maps, metric = known(model, x), some_maps(), small("box_sensitivity")
    assert torch.allclose(metric(maps, given), metric(maps * scale, given), atol=1e-6)
