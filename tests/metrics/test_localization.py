"""Localization: against loops over pixels, Quantus, scikit-learn and scikit-image; what ties do."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import quantus
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from sklearn.metrics import average_precision_score

from seewhy.errors import OptionError
from seewhy.metrics import (
    AUC,
    AttributionLocalization,
    BoxIoU,
    EnergyPointing,
    MeanIoU,
    MetricInputs,
    MultiObject,
    PointingGame,
    RelevanceMassAccuracy,
    RelevanceRankAccuracy,
    TopKIntersection,
)
from seewhy.metrics.localization.box_iou import average_precision
from seewhy.metrics.localization.thresholds import best_level, otsu
from seewhy.metrics.masked_values import pixels

SIZE = (12, 9)


def draw(batch=6, seed=0, levels=None, signed=False):
    """Maps, masks, pixels that count; with `levels` few different values, so that many tie."""
    g = torch.Generator().manual_seed(seed)
    maps = torch.rand(batch, *SIZE, generator=g)
    if levels:
        maps = (maps * levels).floor() / levels
    masks = torch.rand(batch, *SIZE, generator=g) < torch.linspace(0.05, 0.8, batch)[:, None, None]
    masks[:, 3, 4] = True
    valid = torch.rand(batch, *SIZE, generator=g) < 0.8
    valid[:, 3, 4] = True
    return maps - 0.5 if signed else maps, masks, valid


def rows(maps, masks, valid):
    """For each image the values and the mask of the pixels that count, as lists."""
    for a, m, v in zip(maps.tolist(), masks.tolist(), valid.tolist(), strict=True):
        kept = [
            (x, y) for x, y, z in zip(itertools.chain(*a), itertools.chain(*m), itertools.chain(*v), strict=True) if z
        ]
        yield [x for x, _ in kept], [y for _, y in kept]


def literal_pointing(a, m, ties="share"):
    hits = [y for x, y in zip(a, m, strict=True) if x == max(a)]
    return float(any(hits)) if ties == "any" else sum(hits) / len(hits)


def literal_top(a, m, k):
    """The mean over which of the tied pixels fit: by expectation, one pixel at a time."""
    kth = sorted(a, reverse=True)[k - 1]
    above = [y for x, y in zip(a, m, strict=True) if x > kth]
    level = [y for x, y in zip(a, m, strict=True) if x == kth]
    return (sum(above) + sum(level) * (k - len(above)) / len(level)) / k


def literal_auc(a, m):
    pairs = [(x, y) for x, i in zip(a, m, strict=True) if i for y, j in zip(a, m, strict=True) if not j]
    return sum((x > y) + (x == y) / 2 for x, y in pairs) / len(pairs)


def literal_mass(a, m, part=lambda x: max(x, 0)):
    return sum(part(x) for x, y in zip(a, m, strict=True) if y) / sum(map(part, a))


def literal_iou(a, m, at):
    region = [x > at for x in a]
    return sum(x and y for x, y in zip(region, m, strict=True)) / sum(x or y for x, y in zip(region, m, strict=True))


LITERAL = [
    (PointingGame(), literal_pointing),
    (PointingGame(ties="any"), lambda a, m: literal_pointing(a, m, "any")),
    (PointingGame(absolute=True), lambda a, m: literal_pointing(list(map(abs, a)), m)),
    (TopKIntersection(k=7), lambda a, m: literal_top(a, m, 7)),
    (TopKIntersection(), lambda a, m: literal_top(a, m, len(a))),
    (TopKIntersection(fraction=0.1), lambda a, m: literal_top(a, m, math.ceil(0.1 * len(a)))),
    (TopKIntersection(k=7, absolute=True), lambda a, m: literal_top(list(map(abs, a)), m, 7)),
    (RelevanceRankAccuracy(), lambda a, m: literal_top(a, m, sum(m))),
    (RelevanceRankAccuracy(absolute=True), lambda a, m: literal_top(list(map(abs, a)), m, sum(m))),
    (RelevanceMassAccuracy(), literal_mass),
    (RelevanceMassAccuracy(absolute=True), lambda a, m: literal_mass(a, m, abs)),
    (AttributionLocalization(), lambda a, m: literal_mass(a, m, abs)),
    (AttributionLocalization(positive=True), literal_mass),
    (AUC(), literal_auc),
    (AUC(absolute=True), lambda a, m: literal_auc(list(map(abs, a)), m)),
    (MeanIoU(), lambda a, m: literal_iou(a, m, 0.5 * max(a))),
    (MeanIoU(level=0.2), lambda a, m: literal_iou(a, m, 0.2 * max(a))),
    (MeanIoU(rule="best", level=0.7), lambda a, m: literal_iou(a, m, 0.7 * max(a))),
    (MeanIoU(rule="mean"), lambda a, m: literal_iou(a, m, math.fsum(a) / len(a))),
    (MeanIoU(rule="otsu"), lambda a, m: literal_iou(a, m, threshold_otsu(np.array(a)))),
]


@pytest.mark.parametrize("draws", [{}, {"levels": 4}, {"signed": True}, {"levels": 4, "signed": True}], ids=str)
@pytest.mark.parametrize(("metric", "literal"), LITERAL, ids=lambda m: repr(m) if hasattr(m, "card") else "")
def test_it_is_the_formula_over_the_pixels_that_count(metric, literal, draws):
    maps, masks, valid = draw(**draws)
    maps = maps.double()
    expected = [literal(a, m) for a, m in rows(maps, masks, valid)]
    assert metric(maps, masks=masks, valid=valid).tolist() == pytest.approx(expected, abs=1e-12)
    spoilt = torch.where(valid, maps, 7.0)  # what does not count is not looked at
    assert torch.equal(metric(spoilt, masks=masks | ~valid, valid=valid), metric(maps, masks=masks, valid=valid))


# ── Quantus ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def theirs(metric, maps, masks):
    with np.errstate(all="ignore"):
        return np.array(
            metric(
                model=None,
                x_batch=np.zeros((len(maps), 3, *maps.shape[1:])),
                y_batch=None,
                a_batch=maps[:, None].double().numpy(),
                s_batch=masks[:, None].numpy(),
                channel_first=True,
            ),
            dtype=float,
        )


OPTIONS = {"disable_warnings": True, "display_progressbar": False}
SAME = [
    (PointingGame(ties="any"), quantus.PointingGame, {}),
    (PointingGame(ties="any", absolute=True), quantus.PointingGame, {"abs": True}),
    (TopKIntersection(k=10), quantus.TopKIntersection, {"k": 10}),
    (RelevanceRankAccuracy(), quantus.RelevanceRankAccuracy, {}),
    (RelevanceRankAccuracy(absolute=True), quantus.RelevanceRankAccuracy, {"abs": True}),
    (RelevanceMassAccuracy(absolute=True), quantus.RelevanceMassAccuracy, {"abs": True}),
    (AttributionLocalization(), quantus.AttributionLocalisation, {}),
    (AUC(), quantus.AUC, {}),
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("ours", "other", "options"), SAME, ids=lambda v: repr(v) if hasattr(v, "card") else "")
def test_quantus_agrees(ours, other, options, signed):
    maps, masks, _ = draw(signed=signed)
    np.testing.assert_allclose(
        ours(maps, masks=masks).numpy(), theirs(other(**OPTIONS, **options), maps, masks), atol=1e-5
    )


@pytest.mark.parametrize(("ours", "other"), [(PointingGame(ties="any"), quantus.PointingGame), (AUC(), quantus.AUC)])
def test_quantus_agrees_on_ties(ours, other):
    maps, masks, _ = draw(levels=4)
    np.testing.assert_allclose(ours(maps, masks=masks).numpy(), theirs(other(**OPTIONS), maps, masks), atol=1e-5)


def test_quantus_breaks_ties_by_its_sort_and_we_by_share():
    """A constant map: every pixel ties; Quantus takes the first ones, so the score depends on where the mask is."""
    maps, masks = torch.tensor([0.5, 0.25])[:, None, None].expand(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 0], masks[1, 3] = True, True  # the first row; the last row
    for ours, other in (
        (TopKIntersection(k=4), quantus.TopKIntersection(k=4, **OPTIONS)),
        (RelevanceRankAccuracy(), quantus.RelevanceRankAccuracy(**OPTIONS)),
    ):
        assert theirs(other, maps, masks).tolist() == [1, 0]
        assert ours(maps, masks=masks).tolist() == [0.25, 0.25]


def test_ties_of_the_pointing_game():
    maps, masks = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, dtype=torch.bool)
    maps[0, 0], masks[0, 0, 0] = 1, True
    assert PointingGame()(maps, masks=masks).tolist() == [0.25]
    assert PointingGame(ties="any")(maps, masks=masks).tolist() == [1]


def test_quantus_counts_an_empty_mask_as_a_hit():
    maps, masks, _ = draw(batch=2)
    masks[1] = False
    assert theirs(quantus.PointingGame(**OPTIONS), maps, masks)[1] == 1
    assert math.isnan(PointingGame()(maps, masks=masks)[1])


def test_quantus_lets_negative_values_raise_the_mass_above_one():
    maps, masks = torch.tensor([[[3.0, 1.0], [-2.0, 0.0]]]), torch.tensor([[[True, False], [False, False]]])
    assert theirs(quantus.RelevanceMassAccuracy(**OPTIONS), maps, masks).tolist() == [1.5]
    assert RelevanceMassAccuracy()(maps, masks=masks).tolist() == [0.75]


def test_weighted_localization_is_one_for_a_constant_map_and_quantus_weighs_the_other_way():
    maps, masks = torch.linspace(0.2, 0.8, 4)[:, None, None].expand(4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.bool)
    masks[:, 0] = True
    assert AttributionLocalization().measure(maps, masks=masks).parts["weighted"].tolist() == pytest.approx([1] * 4)
    other = theirs(quantus.AttributionLocalisation(weighted=True, **OPTIONS), maps, masks)
    # pixels of the mask / values of the batch's images from the third on: 4 / (2 · 3 · 16)
    assert other.tolist() == pytest.approx([0.25 * 4 / 96] * 4)


# ── thresholds ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_otsu_is_scikit_images():
    g = torch.Generator().manual_seed(3)
    maps = torch.cat([torch.rand(3, 40, 30, generator=g), torch.randn(3, 40, 30, generator=g)]).double()
    maps[1, :9] += 2
    assert otsu(pixels(maps, MetricInputs())).tolist() == [threshold_otsu(m.numpy()) for m in maps]


@pytest.mark.parametrize("rule", ["mean", "otsu"])
def test_a_constant_map_has_no_region_however_its_mean_is_rounded(rule):
    maps = torch.tensor([0.1, 0.3, 0.7, -0.1, 1 / 3])[:, None, None].expand(5, 31, 33)
    assert MeanIoU(rule=rule)(maps, masks=torch.ones_like(maps, dtype=torch.bool)).tolist() == [0] * 5


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
def test_a_map_without_a_positive_value_has_no_region(level):
    maps = torch.tensor([[[-3.0, -0.1]], [[-2.0, 0.0]]])
    assert MeanIoU(level=level)(maps, masks=torch.ones_like(maps, dtype=torch.bool)).tolist() == [0, 0]


def test_the_best_level_is_found_on_validation_images_and_then_fixed():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    maps = masks * 1.0 + torch.nn.functional.max_pool2d(masks.float(), 3, 1, 1) * 0.6  # 1.6 inside, 0.6 round it
    assert best_level(maps, masks) == 0.38  # the least that leaves 0.6/1.6 = 0.375 out
    assert MeanIoU()(maps, masks=masks).tolist() == [1] * 3
    assert MeanIoU(rule="best", level=0.3)(maps, masks=masks).tolist() == pytest.approx([16 / 36] * 3)
    assert MeanIoU(rule="best", level=0.38).options == {"rule": "best", "level": 0.38, "absolute": False}
    maps[0, 0, 0] = math.nan  # left out, as an empty mask is
    masks[1] = False
    assert best_level(maps, masks) == 0.38
    with pytest.raises(OptionError, match="validation images"):
        best_level(maps[:1], masks[:1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanIoU(rule="best"), "best_level"),
        (lambda: MeanIoU(rule="mean", level=0.5), "has no level"),
        (lambda: MeanIoU(level=1.0), "less than 1"),
        (lambda: BoxIoU(rule="best"), "best_level"),
        (lambda: MeanIoU(rule="median"), "not one of"),
        (lambda: PointingGame(ties="half"), "not one of"),
        (lambda: TopKIntersection(k=0), "use 1 or more"),
        (lambda: TopKIntersection(fraction=1.5), "at most 1"),
        (lambda: TopKIntersection(fraction=0.0), "more than 0"),
        (lambda: BoxIoU(shape="round"), "not one of"),
    ],
)
def test_an_option_that_cannot_work_says_what_can(make, message):
    with pytest.raises(OptionError, match=message):
        make()


# ── boxes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def blob(*boxes, size=(10, 12), value=1.0):
    found = torch.zeros(1, *size)
    for left, top, right, bottom in boxes:
        found[0, top:bottom, left:right] = value
    return found


def literal_box_iou(a, b):
    cells = [{(x, y) for x in range(c[0], c[2]) for y in range(c[1], c[3])} for c in (a, b)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def test_the_box_of_the_largest_part_against_the_nearest_object():
    boxes = torch.tensor([[0.0, 0, 2, 2], [4, 3, 9, 8], [10, 9, 12, 10]])
    found = BoxIoU().measure(blob((0, 0, 2, 2), (5, 4, 9, 9)), boxes=[boxes])
    expected = literal_box_iou((5, 4, 9, 9), (4, 3, 9, 8))
    assert found.value.tolist() == pytest.approx([expected])
    assert {k: v.item() for k, v in found.parts.items()} == {
        "corloc": float(expected >= 0.5),
        "confidence": pytest.approx(20 / 24),
        "objects": 3,
    }


def test_corloc_begins_at_one_half():
    for width, right in ((5, 0.0), (6, 1.0)):
        found = BoxIoU().measure(blob((0, 0, width, 4)), boxes=[torch.tensor([[0.0, 0, 12, 4]])])
        assert found.value.item() == pytest.approx(width / 12)
        assert found.parts["corloc"].item() == right


def test_neighbors_at_a_corner_are_two_parts():
    found = BoxIoU()(blob((0, 0, 3, 3), (3, 3, 5, 5)), boxes=[torch.tensor([[0.0, 0, 3, 3]])])
    assert found.tolist() == [1]


def test_the_inner_box_ignores_a_thin_arm():
    arm = blob((2, 2, 6, 7), (6, 4, 11, 5))
    box = [torch.tensor([[2.0, 2, 6, 7]])]
    assert BoxIoU()(arm, boxes=box).item() == pytest.approx(20 / 45)
    assert BoxIoU(shape="inner")(arm, boxes=box).item() == pytest.approx(20 / 25)  # columns 2 … 6 round the median 4


def test_the_largest_part_on_noise_is_scipys():
    g = torch.Generator().manual_seed(2)
    maps = torch.rand(5, 30, 20, generator=g)
    for i, one in enumerate(maps):
        parts, n = ndimage.label((one > 0.5 * one.max()).numpy())
        sizes = [(parts == k).sum() for k in range(1, n + 1)]
        rows, cols = ndimage.find_objects(parts)[int(np.argmax(sizes))]
        box = (cols.start, rows.start, cols.stop, rows.stop)
        truth = (3, 4, 15, 25)
        value = BoxIoU()(maps, boxes=[torch.tensor([truth]).float()] * 5)[i].item()
        assert value == pytest.approx(literal_box_iou(box, truth))


def test_nothing_above_the_threshold_is_no_box():
    found = BoxIoU().measure(torch.zeros(1, 5, 5), boxes=[torch.tensor([[0.0, 0, 1, 1]])])
    assert found.value.tolist() == [0]
    assert found.parts["confidence"].tolist() == [0]


def test_pixels_that_do_not_count_split_a_region():
    maps, valid = blob((0, 0, 9, 4)), torch.ones(1, 10, 12, dtype=torch.bool)
    valid[0, :, 3] = False
    assert BoxIoU()(maps, boxes=[torch.tensor([[4.0, 0, 9, 4]])], valid=valid).tolist() == [1]


def test_energy_is_the_share_in_the_union_of_the_boxes():
    g = torch.Generator().manual_seed(1)
    maps = torch.rand(2, 6, 7, generator=g) - 0.3
    boxes = [torch.tensor([[0.0, 0, 3, 2], [2, 1, 5, 4]]), torch.tensor([[1.4, 1.6, 3.6, 4.4]])]
    inside = torch.zeros(2, 6, 7, dtype=torch.bool)
    inside[0, 0:2, 0:3] = inside[0, 1:4, 2:5] = True
    inside[1, 2:4, 1:4] = True  # the pixels whose center is in it
    assert torch.equal(EnergyPointing()(maps, boxes=boxes), RelevanceMassAccuracy()(maps, masks=inside))
    assert torch.equal(
        EnergyPointing(absolute=True)(maps, boxes=boxes), RelevanceMassAccuracy(absolute=True)(maps, masks=inside)
    )


def test_average_precision_is_scikit_learns_where_every_object_has_a_box():
    """Of a precision that only falls the envelope changes nothing; then theirs and ours are one formula."""
    iou = torch.tensor([0.9, 0.8, 0.1, 0.7, 0.2, 0.0])
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    hits = iou >= 0.5
    ours = average_precision(iou, confidence, torch.ones(6))
    assert ours == pytest.approx(average_precision_score(hits, confidence) * hits.sum().item() / 6)


def test_average_precision_by_hand():
    nan = math.nan
    iou, confidence = torch.tensor([0.1, 0.6, nan, 0.5]), torch.tensor([0.9, 0.5, nan, 0.2])
    objects = torch.tensor([1.0, 2, nan, 1])
    # wrong, right, right: precision 0, 1/2, 2/3, of which the envelope makes 2/3; recall 0, 1/4, 2/4
    assert average_precision(iou, confidence, objects) == pytest.approx(2 / 3 * 2 / 4)
    assert average_precision(iou, confidence, objects, at=0.55) == pytest.approx(1 / 2 * 1 / 4)
    tied = average_precision(torch.tensor([0.0, 1]), torch.ones(2), torch.ones(2))
    assert tied == average_precision(torch.tensor([1.0, 0]), torch.ones(2), torch.ones(2)) == pytest.approx(0.25)
    assert math.isnan(average_precision(*torch.full((3, 2), nan)))


# ── several objects ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_showing_both_is_not_punished_by_the_union():
    cat, dog = (blob(box) > 0 for box in ((0, 0, 4, 4), (6, 5, 10, 9)))
    objects = [torch.cat([cat, dog])]
    both = MultiObject().measure((cat | dog).float(), objects=objects)
    assert both.value.tolist() == [1]
    assert {k: v.item() for k, v in both.parts.items()} == {"minimum": 1, "union": 1, "single": 0.5}
    one = MultiObject().measure(cat.float(), objects=objects)
    rest = 16 / 104  # the other half of the 32 places falls on 104 pixels of zero, 16 of which are the dog
    assert one.value.item() == pytest.approx((1 + rest) / 2)
    assert one.parts["minimum"].item() == pytest.approx(rest)
    assert one.parts["union"].item() == pytest.approx((1 + rest) / 2)
    assert one.parts["single"].item() == pytest.approx(0.5)


@pytest.mark.parametrize("levels", [None, 3])
def test_recall_of_each_object_pixel_by_pixel(levels):
    maps, _, valid = draw(batch=3, levels=levels)
    maps = maps.double()
    g = torch.Generator().manual_seed(5)
    objects = [torch.rand(n, *SIZE, generator=g) < 0.2 for n in (1, 3, 2)]
    objects[2][1] = ~valid[2]  # an object without a pixel that counts
    found = MultiObject().measure(maps, objects=objects, valid=valid)
    for i in range(3):
        seen = objects[i] & valid[i]
        seen = seen[seen.flatten(1).any(1)]
        union = seen.any(0)
        k = int(union.sum())
        a = maps[i][valid[i]].tolist()
        recall = [literal_top(a, m[valid[i]].tolist(), k) * k / int(m.sum()) for m in seen]
        single = [literal_top(a, m[valid[i]].tolist(), int(m.sum())) for m in seen]
        assert found.value[i].item() == pytest.approx(np.mean(recall))
        assert found.parts["minimum"][i].item() == pytest.approx(min(recall))
        assert found.parts["single"][i].item() == pytest.approx(np.mean(single))
        assert found.parts["union"][i].item() == pytest.approx(literal_top(a, union[valid[i]].tolist(), k))
