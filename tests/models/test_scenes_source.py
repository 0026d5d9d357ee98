"""The reference models that ship with the package, as a person loads them."""

from __future__ import annotations

import pytest
import torch

import seewhy
from seewhy.data.scenes import Scenes
from seewhy.errors import UnknownNameError
from seewhy.methods import METHODS
from seewhy.models.sources import scenes as scenes_source


def test_they_load_by_name_and_know_the_objects_of_a_scene():
    scene = Scenes("multi")[4]
    for name in ("scenes_vit", "scenes_cnn", "scenes_vit_registers"):
        model = seewhy.load_model(name, device="cpu")
        chances = model.probabilities(model.predict(scene.image))[0]
        assert {int(i) for i in chances.topk(2).indices} == set(map(int, scene.labels)), name
        assert (chances > 0.5).sum() == 2, name


def test_their_structure_is_that_of_their_architecture():
    vit, registers, cnn = (seewhy.load_model(f"scenes_{n}", device="cpu") for n in ("vit", "vit_registers", "cnn"))
    assert (vit.structure.prefix_tokens, vit.structure.class_token, vit.grid(96, 96)) == (1, True, (12, 12))
    assert (registers.structure.prefix_tokens, registers.structure.class_token) == (4, False)
    assert cnn.cam_layer().name == "layer4"
    assert not METHODS["cdam"].why_incompatible(registers)
    assert METHODS["attention_map"].why_incompatible(registers)


def test_names_and_options_that_do_not_exist():
    assert "scenes_vit" in seewhy.list_models("scenes*")
    with pytest.raises(UnknownNameError, match="scenes_vit"):
        scenes_source.load("scenes_vot")


def test_an_untrained_network_is_the_same_each_time_and_leaves_the_random_state():
    state = torch.get_rng_state()
    one, two = (seewhy.load_model("scenes_vit", pretrained=False).module.state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    trained = seewhy.load_model("scenes_vit").module.state_dict()
    assert not torch.equal(one["head.weight"], trained["head.weight"])
