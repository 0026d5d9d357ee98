"""What the numbers of a head mean: one logit, opposite logits, quantities; each read off a literal formula."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import seewhy
from seewhy.errors import OptionError, TargetError, UnknownNameError
from seewhy.explainer import explain_each
from seewhy.methods import RISE, Occlusion, Saliency, SpectralIG
from seewhy.metrics import ROAD, Deletion, Insertion
from seewhy.targets import against, as_probability


class Net(nn.Module):
    """Bright red pixels in the left half speak for the first output."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.fc = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).relu().mean((2, 3)))


def one_logit(**options: object) -> seewhy.models.VisionModel:
    return seewhy.wrap(Net(1).eval(), preprocess=seewhy.Preprocess(size=(32, 32)), **options)


def test_the_probability_of_a_single_logit_is_its_sigmoid(cat: Image.Image) -> None:
    model = one_logit()
    x = model.preprocess_images(cat)
    with torch.no_grad():
        logit = model.module(x)
    torch.testing.assert_close(model.probabilities(logit), logit.sigmoid())
    (outcome,) = explain_each(model, [cat], [Saliency(model)])
    assert outcome.top[0].probability == pytest.approx(logit.sigmoid().item())
    assert outcome.explanations[0][0].target["score"] == pytest.approx(logit.sigmoid().item())
    assert "output='regression'" in model.structure.note


@pytest.mark.parametrize("cls", [RISE, SpectralIG])
def test_methods_that_read_probabilities_tell_places_apart(cls: type, cat: Image.Image) -> None:
    model = one_logit()
    explanation = seewhy.explain(model, cat, cls(model))
    assert not explanation.is_constant
    assert explanation.attribution.std() > 1e-6


def test_metrics_follow_the_probability(cat: Image.Image) -> None:
    model = one_logit()
    x = model.preprocess_images(cat)
    maps = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model.module(x).sigmoid().item()
    curve = Deletion(n_steps=8).measure(maps, model=model, x=x).curves[""]
    assert curve[0, 0].item() == pytest.approx(whole, abs=1e-6)
    for metric in (Deletion(n_steps=8), Insertion(n_steps=8), ROAD()):
        assert metric.measure(maps, model=model, x=x).value.item() not in (0.0, 1.0), metric


def test_two_names_for_one_logit_are_no_and_yes(cat: Image.Image) -> None:
    """p(yes) = sigmoid(z) and p(no) = 1 − p(yes), each with a map of its own."""
    model = one_logit(class_names=["benign", "malignant"])
    x = model.preprocess_images(cat)
    with torch.no_grad():
        z = model.module(x)
        torch.testing.assert_close(model.run(x).logits, torch.cat([-z, z], 1))
    torch.testing.assert_close(model.probabilities(torch.cat([-z, z], 1)).sum(1), torch.ones(1))
    yes, no = (seewhy.explain(model, cat, Occlusion(model, window=8), name) for name in ("malignant", "benign"))
    torch.testing.assert_close(yes.attribution, -no.attribution)
    likelier = "malignant" if z > 0 else "benign"
    assert seewhy.explain(model, cat, Saliency(model)).target["label"] == likelier


def test_against_turns_any_target_around(cat: Image.Image) -> None:
    model = seewhy.wrap(
        Net(3).eval(),
        preprocess=seewhy.Preprocess(size=(32, 32)),
        class_names=["a", "b", "c"],
        multi_label=True,
    )
    plain = seewhy.explain(model, cat, Occlusion(model, window=8), "b")
    turned = seewhy.explain(model, cat, Occlusion(model, window=8), against(model, "b"))
    torch.testing.assert_close(turned.attribution, -plain.attribution)
    assert turned.target["label"] == "against b"
    assert turned.target["against"]
    assert turned.target["score"] == plain.target["score"] if "score" in plain.target else True
    output = model.output(cat)
    p = output.logits.sigmoid()[:, 1]
    torch.testing.assert_close(as_probability(against(model, "b"), model).score(output), 1 - p)
    answer = against(model).fixed(output)  # the model's answer
    torch.testing.assert_close(answer.score(output), -output.logits.amax(1))


def test_quantities_have_no_probability_and_no_rank(cat: Image.Image) -> None:
    model = seewhy.wrap(Net(2).eval(), preprocess=seewhy.Preprocess(size=(32, 32)), output_names=["diameter", "margin"])
    with torch.no_grad():
        values = model.module(model.preprocess_images(cat))[0]
    (outcome,) = explain_each(model, [cat], [Saliency(model)], ["margin"])
    assert [(answer.label, answer.probability) for answer in outcome.top] == [("diameter", None), ("margin", None)]
    target = outcome.explanations[0][0].target
    assert (target["kind"], target["label"]) == ("output", "margin")
    assert target["value"] == pytest.approx(values[1].item())
    assert not seewhy.explain(model, cat, RISE(model, n_masks=8), "margin").is_constant
    for spec, message in ((None, "diameter, margin"), ("top-2", "quantities"), ("truth", "quantities")):
        with pytest.raises(TargetError, match=message):
            seewhy.explain(model, cat, Saliency(model), spec)
    with pytest.raises(UnknownNameError, match="margin"):
        model.as_target("margn")


def test_the_only_quantity_needs_no_name(cat: Image.Image) -> None:
    model = one_logit(output="regression")
    explanation = seewhy.explain(model, cat, Saliency(model))
    assert (explanation.target["kind"], explanation.target["label"]) == ("output", "output 0")
    assert "score" not in explanation.target
    assert model.structure.note == ""


def test_names_that_do_not_fit() -> None:
    with pytest.raises(OptionError, match="3 class names for 1 class"):
        one_logit(class_names=["a", "b", "c"])
    with pytest.raises(OptionError, match="2 output names for 1 output"):
        one_logit(output_names=["a", "b"])
    with pytest.raises(OptionError, match="class_names"):
        one_logit(output_names=["a"], class_names=["b"])


@pytest.mark.parametrize(("config", "regression"), [({"num_labels": 1}, True), ({"num_labels": 3}, False)])
def test_transformers_says_what_its_head_is(config: dict, regression: bool) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    module = transformers.ViTForImageClassification(
        transformers.ViTConfig(**small, image_size=32, patch_size=8, **config)
    )
    assert seewhy.wrap(module).structure.regression == regression
