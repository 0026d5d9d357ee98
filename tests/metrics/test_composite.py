"""ARCC against the grad-cam package and closed forms; Kendall's τ against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import toys
from scipy.stats import kendalltau

from seewhy.core.cards import Capability, Cost
from seewhy.core.maps import resize_maps
from seewhy.errors import OptionError
from seewhy.methods import METHODS
from seewhy.methods.base import Method, method
from seewhy.metrics import ARCC, ROAD
from seewhy.metrics.composite.agreement import kendall


def given(model, tool, n=3):
    x = toys.batch(n)
    target = list(range(n))
    return resize_maps(tool(x, target), x.shape[-2:]), {"model": model, "x": x, "target": target, "method": tool}


@pytest.mark.parametrize("make", [toys.toy_cnn, toys.toy_vit])
def test_coherency_and_complexity_are_those_of_the_grad_cam_package(make):
    arcc = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    model = make()
    tool = METHODS["layer_cam"](model)
    maps, known = given(model, tool)
    parts = ARCC().measure(maps, **known).parts

    def unit(maps):
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return ((maps - low) / (high - low)).double().numpy()  # theirs adds 1e-8 to the product of the spreads

    cams = unit(maps)
    again = arcc.Coherency()(
        known["x"],
        cams.astype("float32"),
        known["target"],
        model.module,
        lambda input_tensor, targets: unit(resize_maps(tool(input_tensor, targets), (32, 48))),
    )
    assert parts["coherency"].tolist() == pytest.approx(again.tolist(), abs=1e-5)
    assert parts["complexity"].tolist() == pytest.approx(arcc.Complexity()(cams).tolist(), abs=1e-6)


def test_it_is_the_harmonic_mean_of_three_numbers():
    model = toys.toy_cnn()
    maps, known = given(model, METHODS["layer_cam"](model))
    found = ARCC(percentages=(20, 60), seed=3).measure(maps, **known)
    road = ROAD(percentages=(20, 60), seed=3)(maps, **known)
    torch.testing.assert_close(found.parts["road"], (2 * road).clamp(min=0))
    assert (found.parts["road"] > 0).any()
    for value, a, b, c in zip(found.value, *found.parts.values(), strict=True):
        literal = 3 / (1 / a + 1 / (1 - b) + 1 / c) if c > 0 else 0.0
        assert value.item() == pytest.approx(float(literal))
        assert 0 <= value <= min(3 * a, 3 * c)


CARD = {
    "summary": "Nothing.",
    "needs": {Capability.EMBEDDING},
    "class_specific": False,
    "citation": "none",
    "cost": lambda self: Cost.whole(0),
}


@method(register=False, name="brightness", title="Brightness", signed=False, **CARD)
class Brightness(Method):
    """The first channel: masked by itself, the image shows the map's square."""

    def compute(self, x, target):
        return x[:, 0]


@method(register=False, name="signed", title="Signed", signed=True, **CARD)
class Signed(Brightness):
    pass


def test_the_map_masks_the_preprocessed_image():
    model, x = toys.toy_cnn(), toys.batch(2).abs()
    maps = x[:, 0]
    known = {"model": model, "x": x, "target": 0, "method": Brightness(model)}
    shown = (maps - maps.amin((1, 2), keepdim=True)) / (maps.amax((1, 2)) - maps.amin((1, 2)))[:, None, None]
    literal = [(1 + np.corrcoef((m * s).flatten(), s.flatten())[0, 1]) / 2 for m, s in zip(maps, shown, strict=True)]
    assert ARCC(percentages=(50,)).measure(maps, **known).parts["coherency"].tolist() == pytest.approx(literal)


def test_evidence_against_the_class_hides_as_no_evidence_does():
    model, x = toys.toy_cnn(), toys.batch(2)
    known = {"model": model, "x": x, "target": 0}
    signed = ARCC(percentages=(50,)).measure(x[:, 0], method=Signed(model), **known).parts
    clipped = ARCC(percentages=(50,)).measure(x[:, 0].clamp(min=0), method=Signed(model), **known).parts
    for name in ("coherency", "complexity"):
        assert torch.equal(signed[name], clipped[name])
    assert (
        ARCC(percentages=(50,)).measure(x[:, 0], method=Brightness(model), **known).parts["complexity"]
        > signed["complexity"] + 0.1
    ).all()


def test_a_constant_map_has_no_value():
    model = toys.toy_cnn()
    maps, known = given(model, METHODS["layer_cam"](model))
    maps[1] = 0.3
    found = ARCC(percentages=(50,)).measure(maps, **known)
    assert found.reasons == {1: "the map is the same everywhere"}
    assert found.value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("seed", range(8))
def test_kendall_is_scipys_tau_b_ties_included(seed):
    draws = np.random.default_rng(seed)
    a, b = draws.integers(0, 6, (2, 12)).astype(float)
    assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic)
    b[3] = math.nan
    assert kendall(a, b) == pytest.approx(kendalltau(np.delete(a, 3), np.delete(b, 3)).statistic)


def test_kendall_of_known_rankings():
    assert kendall([1, 2, 3], [10, 20, 30]) == 1
    assert kendall([1, 2, 3], [3, 2, 1]) == -1
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))
    assert math.isnan(kendall([1], [1]))
    with pytest.raises(OptionError, match="same methods"):
        kendall([1, 2], [1, 2, 3])
