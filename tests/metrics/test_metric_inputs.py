"""What a metric is told beside the maps: what is refused, and what stays known when a map is bad."""

from __future__ import annotations

import pytest
import torch
import toys

from seewhy.errors import OptionError
from seewhy.methods import METHODS
from seewhy.metrics import ARCC, AUC, Diagnosis, Fidelity, MetricInputs, MultiObject, Randomization
from seewhy.metrics.inputs import check_inputs

SIZE = (32, 48)
MAPS = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))


def masks():
    found = torch.zeros(3, *SIZE, dtype=torch.bool)
    found[:, 8:20, 10:30] = True
    return found


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("masks", masks().byte(), r"masks are torch\.uint8; pass a tensor of bools, such as masks == 1"),
        ("masks", masks().float(), r"masks are torch\.float32; pass a tensor of bools"),
        ("masks", masks().numpy(), "masks are ndarray; pass a tensor of bools"),
        ("masks", masks()[:, :10], r"masks have the shape \(3, 10, 48\), .* resize the maps first"),
        ("masks", masks()[:2], r"masks have the shape \(2, 32, 48\)"),
        ("valid", masks().byte(), r"valid are torch\.uint8"),
        ("objects", [masks().byte()] * 3, r"objects\[0\] are torch\.uint8"),
        ("objects", [masks(), masks(), masks()[0]], r"objects\[2\] have the shape \(32, 48\)"),
        ("objects", [masks(), masks()[..., :9], masks()], r"objects\[1\] have the shape \(3, 32, 9\)"),
        ("objects", [masks()] * 2, "objects are for 2 images, the maps for 3"),
        ("contrast_maps", masks(), r"contrast_maps are torch\.bool; pass a tensor of floats"),
        ("labels", [0, 1, 2], "labels are a list; pass a tensor of class numbers"),
    ],
)
def test_what_is_no_truth_about_these_maps_is_refused(name, value, says):
    given = MetricInputs(masks=masks(), objects=[masks()] * 3)
    setattr(given, name, value)
    for metric in (AUC(), MultiObject()):
        with pytest.raises(OptionError, match=says):
            metric(MAPS, given)


@pytest.mark.parametrize("maps", [MAPS[:0], MAPS[:, None], MAPS.long(), MAPS.numpy()], ids=["none", "4d", "int", "np"])
def test_what_is_no_batch_of_maps_is_refused(maps):
    with pytest.raises(OptionError, match=r"not .*; pass one or more, un-normalized"):
        check_inputs(AUC.card, maps, MetricInputs(masks=masks()))


def diagnosed(model, x, target):
    return {"masks": masks(), "labels": torch.tensor([0, 1, 2])}, Diagnosis()


def averaged(model, x, target):
    return {"method": METHODS["layer_cam"](model)}, ARCC(percentages=(50,))


def randomized(model, x, target):
    return {"method": METHODS["saliency"](model)}, Randomization(n_steps=2)


@pytest.mark.parametrize("make", [diagnosed, averaged, randomized])
@pytest.mark.parametrize("row", [0, 1])
def test_an_image_of_which_the_model_says_nan_costs_itself_only(make, row):
    """Its map is NaN already, or was never asked of the model."""
    model, x, target = toys.toy_cnn(), toys.batch(3), [0, 1, 2]
    known, metric = make(model, x, target)
    good = metric.measure(MAPS, model=model, x=x, target=target, **known)
    broken, maps = x.clone(), MAPS.clone()
    broken[row, 0, 3, 3] = torch.nan
    for a_map in (MAPS[row], MAPS[row] * torch.nan):
        maps[row] = a_map
        found = metric.measure(maps, model=model, x=broken, target=target, **known)
        assert set(found.reasons) == {row}
        rest = [i for i in range(3) if i != row]
        for name, value in {"": found.value, **found.parts}.items():
            assert value[row].isnan()
            # a batch of two rounds otherwise than one of three, and a rank correlation moves by its changed ties
            torch.testing.assert_close(value[rest], (good.parts[name] if name else good.value)[rest], rtol=0, atol=1e-3)


def test_what_the_model_said_of_the_images_stays_known_when_maps_are_bad():
    model = toys.toy_cnn()
    given = MetricInputs(masks=masks(), labels=torch.tensor([0, 1, 2]), model=model, x=toys.batch(3), target=[0, 1, 2])
    seen = []
    model.module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for metric, ends, each in ((Diagnosis(), 6, 0), (Fidelity(n_steps=3), 6, 12)):
        metric(MAPS, given)
        assert sum(seen) == ends + each
        for row in range(3):
            seen.clear()
            maps = MAPS.clone()
            maps[row] = torch.nan
            metric(maps, given)
            assert sum(seen) == each
        seen.clear()
