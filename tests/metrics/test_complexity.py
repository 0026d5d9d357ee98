"""Sparseness, entropy and compactness against their formulas, closed forms and Quantus."""

from __future__ import annotations

import math

import numpy as np
import pytest
import quantus
import torch

from seewhy.errors import OptionError
from seewhy.metrics import Compactness, Entropy, Sparseness

QUANTUS = {"disable_warnings": True, "display_progressbar": False}


def draw(signed=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    maps = torch.rand(5, 11, 8, generator=g).double() ** torch.tensor([0.3, 1, 3, 9, 30])[:, None, None]
    return (maps - 0.2 if signed else maps), torch.rand(5, 11, 8, generator=g) < 0.7


def literal_gini(a):
    """Mean absolute difference of all pairs over twice the mean."""
    a = [abs(x) for x in a]
    return sum(abs(x - y) for x in a for y in a) / (2 * len(a) * sum(a))


def literal_entropy(a):
    p = [abs(x) / sum(map(abs, a)) for x in a]
    return -sum(x * math.log(x) for x in p if x)


LITERAL = [
    (Sparseness(), literal_gini),
    (Entropy(), literal_entropy),
    (Entropy(normalized=True), lambda a: literal_entropy(a) / math.log(len(a))),
    (Compactness(), lambda a: np.mean([abs(x) <= 0.05 * max(map(abs, a)) for x in a])),
    (Compactness(t=0.3), lambda a: np.mean([abs(x) <= 0.3 * max(map(abs, a)) for x in a])),
    (Compactness(variant="signed_maximum"), lambda a: np.mean([abs(x) <= 0.05 * max(a) for x in a])),
    (Compactness(variant="signed"), lambda a: np.mean([x <= 0.05 * max(a) for x in a])),
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("metric", "literal"), LITERAL, ids=lambda m: repr(m) if hasattr(m, "card") else "")
def test_it_is_the_formula_over_the_pixels_that_count(metric, literal, signed):
    maps, valid = draw(signed)
    expected = [literal(a[v].tolist()) for a, v in zip(maps, valid, strict=True)]
    assert metric(maps, valid=valid).tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(metric(torch.where(valid, maps, -9.0), valid=valid), metric(maps, valid=valid))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("ours", "other"), [(Sparseness(), quantus.Sparseness), (Entropy(), quantus.Complexity)])
def test_quantus_agrees(ours, other, signed):
    maps, _ = draw(signed)
    found = other(**QUANTUS)(
        model=None, x_batch=np.zeros((5, 3, 11, 8)), y_batch=None, a_batch=maps[:, None].numpy().copy()
    )
    np.testing.assert_allclose(ours(maps).numpy(), np.array(found), atol=1e-5)


def test_closed_forms():
    constant, one = torch.full((1, 4, 5), 0.3), torch.zeros(1, 4, 5)
    one[0, 2, 2] = -7
    assert Sparseness()(constant).item() == pytest.approx(0, abs=1e-12)
    assert Sparseness()(one).item() == pytest.approx(19 / 20)
    assert Entropy()(constant).item() == pytest.approx(math.log(20))
    assert Entropy(normalized=True)(constant).item() == pytest.approx(1)
    assert Entropy()(one).item() == 0
    assert Compactness()(constant).item() == 0
    assert Compactness()(one).item() == 19 / 20


def test_the_variants_of_compactness_differ_by_what_negative_values_are():
    maps = torch.tensor([[[1.0, 0.04, -0.04, -0.06, -10.0]]])
    found = {v: Compactness(variant=v)(maps).item() for v in ("magnitude", "signed_maximum", "signed")}
    assert found == {"magnitude": 3 / 5 - 0 / 5 + 0 / 5, "signed_maximum": 2 / 5, "signed": 4 / 5}


def test_maps_of_zeros_have_no_score():
    maps = torch.zeros(2, 3, 3)
    maps[1, 0, 0] = 1
    for metric in (Sparseness(), Entropy(), Compactness()):
        found = metric.measure(maps)
        assert math.isnan(found.value[0])
        assert not math.isnan(found.value[1])
        assert found.reasons == {0: "every pixel that counts is zero"}
        valid = maps == 0  # the only other pixel does not count
        assert set(metric.measure(maps, valid=valid).reasons) == {0, 1}
    for variant in ("signed_maximum", "signed"):
        assert Compactness(variant=variant).measure(-maps).reasons == {
            0: "no pixel that counts is positive",
            1: "no pixel that counts is positive",
        }


def test_one_pixel():
    maps = torch.full((1, 1, 1), -2.0)
    assert Sparseness()(maps).tolist() == [0]
    assert Entropy()(maps).tolist() == [0]
    assert Compactness()(maps).tolist() == [0]
    assert math.isnan(Entropy(normalized=True)(maps).item())


def test_a_threshold_that_counts_everything_is_refused():
    with pytest.raises(OptionError, match="less than 1"):
        Compactness(t=1.0)
