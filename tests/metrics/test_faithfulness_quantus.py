"""Faithfulness beside Quantus 0.6.0 and captum: the same numbers where both define the same thing, else why not.

Quantus perturbs channel values, not pixels, so it is asked about images of one channel.
"""

from __future__ import annotations

import numpy as np
import pytest
import quantus
import torch
from captum.metrics import infidelity
from quantus.functions.perturb_func import noisy_linear_imputation
from torch import nn

from seewhy.metrics import ROAD, Deletion, Fidelity, Infidelity, MetricInputs
from seewhy.metrics.faithfulness.imputation import impute
from seewhy.models.adapter import VisionModel
from seewhy.models.structure import Structure
from seewhy.targets import Output

pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = [3, 1, 0]
SIDE = 16


class Gray(nn.Module):
    """A small CNN for images of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.GELU(), nn.Conv2d(6, 6, 3, 2, 1), nn.GELU())
        self.head = nn.Linear(6 * 16, 4)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


@pytest.fixture
def model():
    torch.manual_seed(3)
    return VisionModel(Gray().eval(), Structure("toy", head="head"), name="gray")


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def x():
    return noise(3, 1, SIDE, SIDE, seed=1) + 2  # no pixel is zero already: Quantus warns of that


@pytest.fixture
def maps():
    return noise(3, SIDE, SIDE, seed=2)


def theirs(metric, model, x, maps, softmax):
    found = metric(
        model=model.module,
        x_batch=x.numpy(),
        y_batch=np.array(CLASSES),
        a_batch=maps[:, None].numpy(),
        softmax=softmax,
        channel_first=True,
    )
    return torch.as_tensor(np.asarray(found, dtype=np.float64))


PLAIN = {"normalise": False, "abs": False, "disable_warnings": True, "display_progressbar": False}  # codespell:ignore


def given(model, x):
    return MetricInputs(model=model, x=x, target=CLASSES)


def test_deletion_is_pixel_flipping_without_the_first_point(model, x, maps):
    flipping = quantus.PixelFlipping(features_in_step=16, perturb_baseline=0.0, **PLAIN)
    found = Deletion(n_steps=16).measure(maps, given(model, x))
    want = theirs(flipping, model, x, maps, softmax=True)
    assert torch.allclose(found.curves[""][:, 1:], want, atol=1e-5)
    # their area (np.trapz, gone from the newest numpy) has unit steps and begins at the second point
    first = (found.curves[""][:, 0] + found.curves[""][:, 1]) / 2
    assert torch.allclose(found.value * 16 - first, torch.trapezoid(want, dim=1), atol=1e-5)


def test_pixel_flipping_of_color_flips_channel_values():
    """256 values are a third of a color image of 16 × 16: theirs takes three steps where there is one of pixels."""
    torch.manual_seed(0)
    color = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 4)).eval()
    images, map = noise(1, 3, SIDE, SIDE, seed=5) + 2, noise(1, 1, SIDE, SIDE, seed=6)
    flipping = quantus.PixelFlipping(features_in_step=256, perturb_baseline=0.0, **PLAIN)
    found = flipping(
        model=color,
        x_batch=images.numpy(),
        y_batch=np.array([1]),
        a_batch=map.numpy(),
        softmax=True,
        channel_first=True,
    )
    assert len(found[0]) == 3
    model = VisionModel(
        color,
        Structure("toy", has_logits=True, has_embedding=False, classes=4, read=lambda raw, _: Output(logits=raw)),
    )
    ours = Deletion(n_steps=1).measure(map[:, 0], MetricInputs(model=model, x=images, target=1))
    assert ours.curves[""][0, -1].item() == pytest.approx(found[0][-1], abs=1e-5)
    assert ours.curves[""][0, -1].item() != pytest.approx(found[0][0], abs=1e-3)


@pytest.mark.parametrize(("order", "curve"), [("morf", "mif"), ("lerf", "lif")])
def test_fidelity_of_a_map_of_patches_is_region_perturbation(model, x, order, curve):
    patches = noise(3, 4, 4, seed=4)
    maps = patches.repeat_interleave(4, 1).repeat_interleave(4, 2)
    regions = quantus.RegionPerturbation(
        patch_size=4, order=order, regions_evaluation=16, perturb_baseline=0.0, **PLAIN
    )
    found = Fidelity(n_steps=16, baseline="zero").measure(maps, given(model, x)).curves[curve]
    lost = theirs(regions, model, x, maps, softmax=False)
    assert torch.allclose(found[:, :1] - found[:, 1:], lost, atol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_is_theirs(x, share):
    gone = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(8)) < share
    want = noisy_linear_imputation(x[0].double().numpy(), np.flatnonzero(gone.numpy()), noise=0.0)
    found = impute(x[0].double(), gone[None], tolerance=1e-8)
    assert torch.allclose(found[0], torch.from_numpy(want), atol=1e-5)
    assert torch.allclose(impute(x[0], gone[None])[0].double(), torch.from_numpy(want), atol=1e-4)  # as ROAD calls it


def test_road_by_accuracy_is_theirs_for_each_image(model, x, maps):
    """Theirs is MoRF, whether the class is still the answer, averaged over images: asked here for one image each."""
    with torch.no_grad():
        answers = model.module(x).argmax(1).tolist()
    percentages = list(range(5, 100, 10))
    found = (
        ROAD(percentages=percentages, noise=0.0, read_out="accuracy")
        .measure(maps, MetricInputs(model=model, x=x, target=answers))
        .curves["morf"]
    )
    for i in range(3):
        their = quantus.ROAD(percentages=percentages, noise=0.0, **PLAIN)
        want = their(
            model=model.module,
            x_batch=x[i : i + 1].numpy(),
            y_batch=np.array(answers[i : i + 1]),
            a_batch=maps[i : i + 1, None].numpy(),
            softmax=True,
            channel_first=True,
        )
        assert found[i].tolist() == [want[p] for p in percentages]
    assert 0 < found.mean() < 1


def test_infidelity_of_one_patch_is_theirs(model, x, maps):
    """A patch as large as the image: there is only one box, and nothing that stays removed from before."""
    their = quantus.Infidelity(perturb_patch_sizes=[SIDE], n_perturb_samples=1, perturb_baseline=0.0, **PLAIN)
    ours = Infidelity(sizes=(28,), n_samples=2, scale="none", baseline="zero")
    assert torch.allclose(ours(maps, given(model, x)), theirs(their, model, x, maps, softmax=False), rtol=1e-5)


def test_infidelity_of_several_patches_is_not_because_theirs_pile_up(model, x, maps):
    """Quantus goes on from what the patch before has left: its second perturbation holds the first, and so on."""

    def error(piled):
        total = torch.zeros(3, dtype=torch.float64)
        changed = x.clone()
        with torch.no_grad():
            for row in range(0, SIDE, 8):
                for col in range(0, SIDE, 8):
                    changed = changed.clone() if piled else x.clone()
                    changed[..., row : row + 8, col : col + 8] = 0
                    loss = (model.module(x) - model.module(changed))[range(3), CLASSES]
                    total += ((maps[:, None] * (x - changed)).sum((1, 2, 3)) - loss).double() ** 2 / 4
        return total

    their = quantus.Infidelity(perturb_patch_sizes=[8], n_perturb_samples=1, perturb_baseline=0.0, **PLAIN)
    found = theirs(their, model, x, maps, softmax=False)
    assert torch.allclose(found, error(piled=True), rtol=1e-5)
    assert not torch.allclose(found, error(piled=False), rtol=1e-1)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_captums_for_the_same_boxes(model, x, maps, normalize):
    metric = Infidelity(sizes=(5, 11), n_samples=20, scale="best" if normalize else "none", baseline="zero")
    boxes = [
        (side, *corner)
        for size in metric.sizes
        for side, corners in [metric.boxes(SIDE, SIDE, size)]
        for corner in corners.tolist()
    ]
    turn = iter(boxes * 2)

    def perturb(inputs):
        """One call for each draw (max_examples_per_batch=1 image's worth), the same box for every image."""
        side, top, left = next(turn)
        change = torch.zeros_like(inputs)
        place = (..., slice(top, top + side), slice(left, left + side))
        change[place] = inputs[place]
        return change, inputs - change

    want = infidelity(
        model.module,
        perturb,
        x,
        maps[:, None],
        target=torch.tensor(CLASSES),
        n_perturb_samples=len(boxes),
        max_examples_per_batch=len(x),
        normalize=normalize,
    )
    assert torch.allclose(metric(maps, given(model, x)).float(), want.detach(), rtol=1e-4)
