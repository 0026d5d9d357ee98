"""The real network gives the numbers that it gave elsewhere, and its last map is the one that is pooled."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from seewhy import models
from seewhy.errors import OptionError
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.models.sources.efficientnet_lite import LAST_MAP

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def model():
    return models.load_model("efficientnet_lite0", device="cpu")


def test_cat_is_a_cat_and_coffee_is_coffee(model, cat, coffee) -> None:
    answers = [model.class_names[i] for i in model.predict([cat, coffee]).argmax(1)]
    assert answers[0] in {"tabby", "tiger cat", "Egyptian cat"}
    assert answers[1] in {"espresso", "cup"}


def test_images_are_put_into_their_classes(model, shared_data) -> None:
    folder = shared_data / "photos"  # codespell:ignore
    with open(folder / "photos.csv", newline="") as file:  # codespell:ignore
        rows = list(csv.DictReader(file))
    answers = model.predict([folder / row["file"] for row in rows]).argmax(1).tolist()
    assert sum(a == int(row["imagenet_index"]) for a, row in zip(answers, rows, strict=True)) >= 22
    assert [model.class_names[int(row["imagenet_index"])] for row in rows] == [row["label"] for row in rows]


def test_logits_are_those_of_the_reference_run(model, shared_data) -> None:
    with open(shared_data / "cutouts" / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))[::12]
    # that run cut no margin off
    whole = VisionModel(model.module, model.structure, preprocess=replace(model.preprocess, resize=224))
    logits = whole.predict([shared_data / "cutouts" / row["file"] for row in rows])
    ours = logits.gather(1, torch.tensor([[int(row["class1_index"])] for row in rows])).squeeze(1)
    torch.testing.assert_close(ours, torch.tensor([float(row["cnn_logit_class1"]) for row in rows]), atol=1e-2, rtol=0)


def test_last_map_is_what_is_pooled_after_its_relu6(model) -> None:
    x = torch.randn(2, 3, 224, 224)
    stages = model.structure.stages
    with untouched(model.module), torch.no_grad():
        maps = model.activations(x, stages)
        output = model.run(x)
        features = model.module.extract_features(x)
    assert [tuple(m.shape[-2:]) for m in maps.values()] == [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7)]
    assert torch.equal(maps[LAST_MAP], features)
    assert features.min() == 0
    assert features.max() <= 6
    torch.testing.assert_close(features.mean((2, 3)), output.embedding)
    torch.testing.assert_close(model.module._fc(output.embedding), output.logits)


def test_loading_prints_nothing_and_another_head_is_untrained_only(capfd) -> None:
    small = models.load_model("efficientnet_lite0", pretrained=False, num_classes=5, device="cpu")
    assert (small.classes, small.class_names, capfd.readouterr().out) == (5, None, "")
    with pytest.raises(OptionError, match="pretrained=False"):
        models.load_model("efficientnet_lite0", num_classes=5)
