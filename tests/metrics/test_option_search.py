"""Choosing an option of a method by fidelity."""

from __future__ import annotations

import pytest
import torch
from toys import batch, toy_vit

import seewhy
from seewhy.data.scenes import Scenes
from seewhy.errors import OptionError
from seewhy.methods import METHODS
from seewhy.metrics import ROAD, Fidelity, MetricInputs, resize_maps
from seewhy.metrics.faithfulness import choose_option


def test_sigma_of_smooth_cdam_on_scenes():
    model = seewhy.load_model("scenes_vit")
    scenes = Scenes("multi", seed=0)
    x = model.preprocess_batch([scenes[i].image for i in range(2)])
    labels = [int(scenes[i].labels[0]) for i in range(2)]
    metric = Fidelity(n_steps=4)
    choice = choose_option(model, x, labels, among=(0.02, 1.0), metric=metric, n_samples=4)
    for sigma in (0.02, 1.0):
        maps = METHODS["smooth_cdam"](model, sigma=sigma, n_samples=4)(x, labels)
        want = metric(resize_maps(maps, (96, 96)), MetricInputs(model=model, x=x, target=labels))
        assert torch.allclose(choice.values[sigma], want, atol=1e-4)
        assert choice.table[sigma] == pytest.approx(want.mean().item(), abs=1e-4)
    assert choice.value == max(choice.table, key=choice.table.get)


def test_the_ends_are_asked_once_for_all_values():
    model, seen = toy_vit(), []
    model.module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    choose_option(model, batch(), [1, 2], method="lafam", option="layer", among=(0, 1, 2), metric=Fidelity(n_steps=4))
    assert sum(seen) == 2 * (3 * 1 + 3 * 6 + 2)  # a map each, its inner points, and two ends in all


def test_what_cannot_be_chosen():
    model, x = toy_vit(), batch()
    with pytest.raises(OptionError, match="no best of 0"):
        choose_option(model, x, 1, among=())
    with torch.no_grad():
        model.module.head.bias.fill_(torch.nan)
    with pytest.raises(OptionError, match="no value for any image"):
        choose_option(model, x, 1, method="lafam", option="layer", among=(0,), metric=ROAD(percentages=(50,)))
