"""Fine-tuning: the last blocks learn, quantities come out in their units, and a folder opens as a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.metrics import roc_auc_score
from toys import toy_cnn, toy_vit
from typer.testing import CliRunner

import seewhy
from seewhy.cli import app
from seewhy.data import Nodules, Scenes
from seewhy.errors import DataError, OptionError, UnknownNameError, WeightsError
from seewhy.models import load_finetuned, load_model, wrap
from seewhy.models.adapter import VisionModel
from seewhy.models.finetuned import with_outputs
from seewhy.training import FineTuneSettings, cross_validate, finetune
from seewhy.training.fine_tuning import FineTuneTask, trained_parameters
from seewhy.training.samples import ImageData, read_answers
from seewhy.training.scores import class_scores, regression_scores, roc_auc

QUICK = FineTuneSettings(dropout=0.0, blocks=1, epochs=2, batch_size=8, balance=None)
SIZES = ("diameter", "spiculation")


def tiny_timm(name: str = "vit_tiny_patch16_224", **options: object) -> VisionModel:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    chosen = {"img_size": 32, "depth": 3, "embed_dim": 24, "num_heads": 2, "num_classes": 0} | options
    return wrap(timm.create_model(name, **chosen), input_size=chosen["img_size"])


def tiny_dinov2(registers: bool = False) -> VisionModel:
    transformers = pytest.importorskip("transformers")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    return wrap(getattr(transformers, f"{kind}Model")(config), input_size=28)


BACKBONES = {
    "dino": tiny_timm,  # DINO's ViT is timm's without a classifier
    "deit": lambda: tiny_timm("deit_tiny_distilled_patch16_224"),
    "dinov2": tiny_dinov2,
    "dinov2 with registers": lambda: tiny_dinov2(True),
    "dinov2 of timm": lambda: tiny_timm("vit_small_patch14_reg4_dinov2", img_size=28),
    "cnn": toy_cnn,
    "scenes": lambda: load_model("scenes_vit", device="cpu"),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_the_last_block_learns_and_the_backbone_stays(name: str, tmp_path: Path) -> None:
    model = BACKBONES[name]()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    tuned = finetune(model, Nodules(16), out=tmp_path, quantities=SIZES, settings=QUICK, shares=(0.5, 0.25, 0.25))
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    moved = {
        k
        for k, v in tuned.model.module.state_dict().items()
        if not any(v.shape == b.shape and torch.equal(v, b) for b in before.values())
    }
    assert any(k.startswith(f"{tuned.model.structure.head}.") for k in moved)
    last = (model.structure.blocks or model.structure.stages)[-1].name
    assert any(f"{last}." in k for k in moved)
    first = (model.structure.blocks or model.structure.stages)[0].name
    if first != last:
        assert not any(f"{first}." in k for k in moved)
    assert tuned.model.class_names == SIZES
    with torch.no_grad():
        x = tuned.model.preprocess_images([Nodules(16)[i].image for i in tuned.test])
        predicted = tuned.model.run(x).logits.numpy()
    truth = np.array([[Nodules(16)[i].about["biomarkers"][q] for q in SIZES] for i in tuned.test])
    assert ((predicted - truth) ** 2).mean(0) == pytest.approx(
        [tuned.figures[f"test mse {q}"] for q in SIZES], rel=1e-3
    )
    again = load_finetuned(tmp_path, BACKBONES[name]())
    torch.testing.assert_close(again.run(x).logits, tuned.model.run(x).logits)


def test_a_folder_opens_as_a_model_with_explanations(tmp_path: Path) -> None:
    line = ["train", "finetune", "nodules", "-m", "scenes_vit", "-o", str(tmp_path / "run"), "--device", "cpu"]
    line += ["--data-option", "n=24", "--dropout", "0", "--blocks", "1", "--epochs", "2", "--batch-size", "8"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert "test auc" in done.output
    model = load_model(tmp_path / "run", device="cpu")
    assert model.class_names == ("benign", "malignant")
    logits = model.predict([Nodules(24)[0].image])
    assert logits.shape == (1, 2)
    assert logits.sum() == 0  # one logit, for and against
    maps = [seewhy.explain(model, Nodules(24)[0].image, "cdam", c).attribution for c in model.class_names]
    torch.testing.assert_close(maps[0], -maps[1])
    again = CliRunner().invoke(app, [*line, "--resume"])
    assert again.exit_code == 0, again.output
    refused = CliRunner().invoke(app, line)
    assert isinstance(refused.exception, OptionError)


def test_one_step_is_what_the_equations_say(tmp_path: Path) -> None:
    """One batch, one epoch: Adam on the last block and the head, squared errors in units of the spread."""
    model, data = toy_vit(), Nodules(8)
    tuned = finetune(
        model,
        data,
        out=tmp_path,
        quantities=SIZES,
        shares=(0.99, 0.005, 0.005),
        settings=FineTuneSettings(dropout=0.0, blocks=1, epochs=1, batch_size=8, augment=()),
    )
    other = with_outputs(toy_vit(), SIZES, regression=True)
    names = trained_parameters(other, 1)
    parameters = [p.requires_grad_() for n, p in other.module.named_parameters() if n in names]
    y = torch.tensor([[s.about["biomarkers"][q] for q in SIZES] for s in data])
    center, scale = y.mean(0), y.std(0, correction=0)
    x = other.preprocess_images([s.image for s in data])
    loss = ((other.run(x).logits - (y - center) / scale) ** 2).mean()
    loss.backward()
    torch.optim.Adam(parameters, lr=3e-4).step()
    assert tuned.history.epochs[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    with torch.no_grad():
        expected = other.run(x).logits * scale + center
    torch.testing.assert_close(tuned.model.predict([s.image for s in data]), expected, rtol=1e-3, atol=1e-3)


def test_folds_are_measured_each_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_vit()
    options = dict(out=tmp_path, folds=2, settings=QUICK)
    folds = cross_validate(model, Nodules(20), **options)
    accuracies = [fold.figures["accuracy"] for fold in folds.folds]
    assert folds.mean["accuracy"] == pytest.approx(np.mean(accuracies))
    assert folds.std["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert json.loads((tmp_path / "folds.json").read_text())["each"]["accuracy"] == accuracies
    steps = []
    monkeypatch.setattr(FineTuneTask, "loss", lambda *_: steps.append(1))
    assert cross_validate(model, Nodules(20), resume=True, **options).mean == folds.mean
    assert not steps


def test_dropout_and_batch_norms_of_frozen_parts(tmp_path: Path) -> None:
    model = wrap(torchvision.models.resnet18(weights=None, num_classes=3), input_size=32)
    tuned = with_outputs(model, ("a", "b", "c"))
    answers = read_answers(Scenes("single", n=2))
    settings = FineTuneSettings(dropout=0.0, blocks=1)
    task = FineTuneTask(tuned, settings, answers, np.arange(2), "")
    task.module.train()
    task.start_epoch(0)
    assert not task.module.bn1.training
    assert task.module.layer4[0].bn1.training
    assert task.module.fc.weight.requires_grad
    assert not task.module.layer3[0].conv1.weight.requires_grad
    with pytest.raises(OptionError, match="no dropout layers; use dropout=0"):
        finetune(toy_cnn(), Scenes("single", n=20), out=tmp_path, settings=FineTuneSettings(blocks=1))
    vit = tiny_timm()
    layers = [m for m in vit.module.modules() if isinstance(m, torch.nn.Dropout)]
    made = with_outputs(vit, ("a", "b"))
    FineTuneTask(made, FineTuneSettings(dropout=0.05, blocks=None), answers, np.arange(2), "")
    assert layers
    assert all(layer.p == 0.05 for layer in layers)
    assert len(trained_parameters(made, None)) == len(list(made.module.parameters()))
    assert trained_parameters(made, 0) == {"head.weight", "head.bias"}
    with pytest.raises(OptionError, match="has 3 blocks, not 4"):
        trained_parameters(made, 4)


def test_the_papers_fifty_layers_are_four_blocks_and_a_norm() -> None:
    timm = pytest.importorskip("timm")
    made = with_outputs(
        wrap(timm.create_model("vit_small_patch16_224", img_size=32, num_classes=0), input_size=32), "ab"
    )
    assert len(trained_parameters(made, 4) - trained_parameters(made, 0)) == 50


def test_augmented_images_are_turned_and_mirrored() -> None:
    data, answers = Nodules(2), read_answers(Nodules(2))
    images = ImageData(data, answers, np.arange(2), seewhy.Preprocess(size=(96, 96), resize=96), ("flip", "turn"))
    plain = images.sample(1, None)["x"]
    variants = [torch.rot90(x, k, (1, 2)) for x in (plain, plain.flip(2)) for k in range(4)]
    views = [images.sample(1, np.random.default_rng(i))["x"] for i in range(40)]
    seen = {next(i for i, variant in enumerate(variants) if torch.equal(view, variant)) for view in views}
    assert seen == set(range(8))
    assert torch.equal(images.sample(1, None)["x"], plain)


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.4
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert np.isnan(roc_auc(scores, np.ones(50, dtype=bool)))
    probabilities, classes = rng.dirichlet(np.ones(3), 60), rng.integers(0, 3, 60)
    found = class_scores(probabilities, classes, ("a", "b", "c"))
    assert found["auc"] == pytest.approx(roc_auc_score(classes, probabilities, multi_class="ovr"))
    assert found["accuracy"] == (probabilities.argmax(1) == classes).mean()
    y, p = np.array([[1.0, 10], [3, 30]]), np.array([[2.0, 10], [3, 20]])
    figures = regression_scores(p, y, np.array([2.0, 5.0]), ("u", "v"))
    assert figures == {"mse": 1.0625, "mse u": 0.5, "mse v": 50.0, "r2 u": 0.5, "r2 v": 0.5}


def test_what_cannot_be_learned(tmp_path: Path) -> None:
    class OneClass(Nodules):
        """Only what is benign."""

        def read(self, index: int):
            return replace(super().read(index), labels=(0,))

    with pytest.raises(DataError, match="all samples of the training data are of one class, 'benign'"):
        finetune(toy_vit(), OneClass(20), out=tmp_path, settings=QUICK)
    with pytest.raises(UnknownNameError, match="did you mean 'diameter'"):
        finetune(toy_vit(), Nodules(4), out=tmp_path, quantities=["diametre"], settings=QUICK)
    with pytest.raises(UnknownNameError, match="did you mean 'rotate'"):
        finetune(
            toy_vit(), Nodules(20), out=tmp_path, settings=FineTuneSettings(dropout=0.0, blocks=1, augment=("rotated",))
        )
    with pytest.raises(OptionError, match="choose from mse, huber"):
        FineTuneSettings(loss="l1")
    with pytest.raises(WeightsError, match="choose its folder"):
        load_finetuned(tmp_path, toy_vit())
    finetune(toy_vit(), Nodules(20), out=tmp_path / "run", settings=QUICK)
    with pytest.raises(WeightsError, match="made in Python"):
        load_model(tmp_path / "run")
    with pytest.raises(WeightsError, match="another backbone"):
        finetune(toy_vit(seed=1), Nodules(20), out=tmp_path / "run", settings=QUICK, resume=True)
    with pytest.raises(WeightsError, match="another architecture"):
        load_finetuned(tmp_path / "run", toy_cnn())


def test_weights_balance_the_loss() -> None:
    answers = read_answers(Nodules(12))
    made = with_outputs(toy_vit(), answers.names)
    task = FineTuneTask(made, FineTuneSettings(dropout=0.0, blocks=0, balance="weights"), answers, np.arange(12), "")
    counts = np.bincount(answers.labels)
    assert task.weights.numpy() == pytest.approx(12 / (2 * counts))
    x, label = torch.randn(12, 3, 32, 48), torch.from_numpy(answers.labels)
    task.module.eval()
    losses = task.evaluate({"x": x, "label": label, "y": torch.zeros(12, 0)})["loss"]
    expected = sum(losses[label == c].mean() for c in (0, 1)) / 2
    torch.testing.assert_close(task.loss({"x": x, "label": label}, 0)["loss"], expected)
