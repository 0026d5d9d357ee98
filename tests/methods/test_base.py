"""What every method gets from its base class, where the contract checks (`tests/contracts`) do not ask already."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from toys import batch, toy_cnn

from seewhy.errors import ModelError, TargetError
from seewhy.methods import LRP, GradCAM, GuidedBackprop, Saliency
from seewhy.methods.guards import check_batch
from seewhy.models.adapter import VisionModel
from seewhy.models.load import load_model
from seewhy.models.structure import Layer, Structure
from seewhy.targets import Rank


def test_a_model_loaded_in_inference_mode_has_weights_like_any_other():
    with torch.inference_mode():
        model = load_model("scenes_cnn")
        maps = GradCAM(model)(torch.rand(1, 3, 96, 96), 1)
    assert not any(p.is_inference() for p in model.module.parameters())
    assert maps.std() > 0


class Hides(nn.Module):
    """Its features are computed without gradients, whatever the caller wants."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, inner.head

    def forward(self, x):
        with torch.no_grad():
            pooled = self.inner.stage2(self.inner.stage1(x)).mean((2, 3))
        return self.head(pooled)


class Again(nn.Module):
    """Keeps no activations of its first stage: they are computed anew in the backward."""

    def __init__(self, inner, reentrant):
        super().__init__()
        self.inner, self.head, self.reentrant = inner, inner.head, reentrant

    def forward(self, x):
        x = checkpoint(self.inner.stage1, x, use_reentrant=self.reentrant)
        return self.head(self.inner.stage2(x).mean((2, 3)))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("cls", [Saliency, GradCAM, GuidedBackprop, LRP])
def test_activation_checkpointing_is_followed_or_refused_in_words(cls, reentrant):
    plain = toy_cnn()
    layer = Layer("inner.stage2", "nchw")
    structure = Structure("toy", stages=(layer,), cam_layer=layer, head="head")
    model = VisionModel(Again(toy_cnn().module, reentrant), structure, preprocess=plain.preprocess)
    if cls is GradCAM or (cls is not LRP and not reentrant):
        torch.testing.assert_close(cls(model)(batch(), 1), cls(plain)(batch(), 1))
    else:
        with pytest.raises(ModelError, match="activation checkpointing"):
            cls(model)(batch(), 1)


def test_a_score_without_gradient_is_not_a_map_of_zeros():
    for trains in (True, False):
        module = Hides(toy_cnn().module).requires_grad_(trains)
        layer = Layer("inner.stage2", "nchw")
        model = VisionModel(module, Structure("toy", stages=(layer,), head="head"))
        for cls in (GradCAM, Saliency):
            with pytest.raises(ModelError, match="no gradient"):
                cls(model)(batch(), 1)
    with pytest.raises(ModelError, match="no gradient"):
        Saliency(toy_cnn())(batch(), lambda logits: torch.ones(len(logits)))


def test_what_is_no_batch_is_refused():
    model = toy_cnn()
    for wrong, message in [
        (batch()[0], "preprocessed float batch"),
        (batch().int(), "int32"),
        ("cat.jpg", "got str"),
        (batch()[:0], "empty"),
        (batch().to("meta"), "on meta, the model on cpu"),
    ]:
        with pytest.raises(ModelError, match=message):
            check_batch(wrong, model)  # the shape checks of the tests would be before it in a call
    with pytest.raises(ModelError, match="empty"):
        Saliency(model)(batch()[:0], 1)


def test_bad_targets_are_refused_before_any_forward(monkeypatch):
    model = toy_cnn()
    monkeypatch.setattr(model.module, "forward", lambda x: pytest.fail("ran"))
    for wrong in (5, -1, [1, 2, 3], "top-6", True, ["cat", 7], [Rank(9), "cat"]):
        with pytest.raises(TargetError):
            GradCAM(model)(batch(), wrong)
