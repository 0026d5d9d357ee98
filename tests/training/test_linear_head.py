"""A linear head on a frozen backbone: features are computed once, and the file fits its backbone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedKFold
from torch.nn import functional as F
from typer.testing import CliRunner

from seewhy import load_model
from seewhy.cli import app
from seewhy.data import Folder, Scenes
from seewhy.errors import DataError, OptionError, SeewhyError, WeightsError
from seewhy.models.adapter import VisionModel
from seewhy.training import cached_features, train_head
from seewhy.training.augmentation import random_crop
from seewhy.training.features import STATE
from seewhy.training.splits import balanced, check_classes, stratified_folds, stratified_parts


@pytest.fixture(scope="module")
def backbone() -> VisionModel:
    return load_model("scenes_vit", device="cpu")


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """Red and blue images with noise, a broken one, and one more class of one image."""
    rng = np.random.default_rng(0)
    for i in range(24):
        name = ("blue", "red")[i % 2]
        folder = tmp_path / "colors" / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 60, (40, 50, 3))
        values[..., 0 if name == "red" else 2] += 150
        if name == "red":  # the backbone does not mind colors
            values[5:35, 10:40] = 0
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{i:02d}.png")
    (tmp_path / "colors/images/red/99.png").write_bytes(b"no image")
    return tmp_path / "colors"


def count_forwards(model: VisionModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    plain = VisionModel.forward_checked

    def counted(self: VisionModel, x: torch.Tensor):
        seen.append(len(x))
        return plain(self, x)

    monkeypatch.setattr(VisionModel, "forward_checked", counted)
    return seen


def test_a_head_is_trained_and_opened_with_its_backbone(backbone: VisionModel, colors: Path, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in backbone.module.state_dict().items()}
    trained = train_head(backbone, Folder(colors), out=tmp_path / "run", epochs=40, lr=0.01, batch_size=8)
    assert trained.class_names == ("blue", "red")
    assert trained.history.column("accuracy")[-1] == 1.0
    assert list(trained.left_out) == ["red/99.png"]
    assert all(torch.equal(before[k], v) for k, v in backbone.module.state_dict().items())
    for head in (trained.path, tmp_path / "run"):
        model = load_model("scenes_vit", head=head, device="cpu")
        assert model.class_names == ("blue", "red")
        images = sorted((colors / "images").glob("*/[0-8]?.png"))
        assert model.predict(images).argmax(1).tolist() == [int(p.parent.name == "red") for p in images]
    features = cached_features(backbone, Folder(colors), tmp_path / "run" / "features")
    linear = model.module.get_submodule(str(model.structure.head))
    logits = torch.from_numpy(np.array(features.values[0, :3])) @ linear.weight.T + linear.bias
    torch.testing.assert_close(
        model.predict([colors / "images" / n for n in features.names[:3]]), logits, rtol=1e-4, atol=1e-4
    )


def test_the_first_step_is_adams_on_the_papers_settings(backbone: VisionModel, tmp_path: Path) -> None:
    data = Scenes("single", n=20)
    trained = train_head(backbone, data, out=tmp_path, epochs=1)
    features = cached_features(backbone, data, tmp_path / "features")
    x, y = torch.from_numpy(np.array(features.values[0])), torch.from_numpy(features.labels).long()
    torch.manual_seed(0)
    linear = torch.nn.Linear(x.shape[1], len(data.class_names))
    loss = F.cross_entropy(linear(x), y)
    loss.backward()
    torch.optim.Adam(linear.parameters(), lr=3e-4).step()
    assert trained.history.epochs[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert trained.history.steps == 1  # a batch of 128
    head = load_model("scenes_vit", head=trained.path, device="cpu").module.head
    torch.testing.assert_close(head.weight, linear.weight, rtol=1e-5, atol=1e-6)


def test_features_are_computed_once_and_go_on_where_they_were(
    backbone: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Scenes("single", n=7)
    whole = cached_features(backbone, data, tmp_path / "whole", batch_size=2)
    expected = backbone.embed([data[i].image for i in range(7)])
    torch.testing.assert_close(torch.from_numpy(np.array(whole.values[0])), expected, rtol=1e-4, atol=1e-5)
    seen = count_forwards(backbone, monkeypatch)
    again = cached_features(backbone, data, tmp_path / "whole", batch_size=2)
    assert not seen
    assert isinstance(again.values, np.memmap)

    monkeypatch.setattr("seewhy.training.features._SECONDS", 0.0)
    plain, reads = Scenes.read, []

    def killed(self: Scenes, index: int):
        reads.append(index)
        if len(reads) == 6:
            raise KeyboardInterrupt
        return plain(self, index)

    monkeypatch.setattr(Scenes, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        cached_features(backbone, data, tmp_path / "broken", batch_size=2)
    (state,) = (tmp_path / "broken").glob(f"*/{STATE}")
    assert json.loads(state.read_text())["done"] == 4
    resumed = cached_features(backbone, data, tmp_path / "broken", batch_size=2)
    assert reads == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    np.testing.assert_allclose(resumed.values, whole.values, rtol=1e-5, atol=1e-6)
    assert (resumed.labels == whole.labels).all()


def test_views_are_crops_and_validation_sees_the_whole_image(backbone: VisionModel, tmp_path: Path) -> None:
    data = Scenes("single", n=24)
    features = cached_features(backbone, data, tmp_path / "c", views=3)
    assert features.values.shape[:2] == (3, 24)
    assert all((features.values[a] != features.values[b]).any() for a, b in ((0, 1), (0, 2), (1, 2)))
    trained = train_head(backbone, data, out=tmp_path / "run", epochs=2, views=3, validation=0.25)
    assert {"val_loss", "val_accuracy", "val_top5"} < trained.history.epochs[0].keys()
    assert len(list((tmp_path / "run/features").iterdir())) == 2
    other = train_head(backbone, data, out=tmp_path / "other", epochs=2, validation=Scenes("single", n=4, seed=3))
    assert len(other.history.epochs) == 2


def test_a_crop_is_torchvisions() -> None:
    """The same limits and the same distribution of area, ratio and place as RandomResizedCrop."""
    from torchvision.transforms import RandomResizedCrop

    rng, image = np.random.default_rng(0), torch.zeros(3, 40, 70)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(2000)])
    ours = np.array([random_crop(70, 40, rng) for _ in range(2000)])
    assert (ours[:, 0] >= 0).all()
    assert (ours[:, 2] <= 70).all()
    assert (ours[:, 3] <= 40).all()
    sizes = ours[:, 2:] - ours[:, :2]
    for mine, other in (
        (ours[:, 1], theirs[:, 0]),
        (ours[:, 0], theirs[:, 1]),
        (sizes[:, 1], theirs[:, 2]),
        (sizes[:, 0], theirs[:, 3]),
    ):
        assert np.quantile(mine, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(other, [0.1, 0.5, 0.9]), abs=3)
    assert random_crop(10, 500, rng) == (0, 243, 10, 256)  # no try fits: the middle, 3:4


def test_a_head_of_another_backbone_or_kind(backbone: VisionModel, tmp_path: Path) -> None:
    path = train_head(backbone, Scenes("single", n=14), out=tmp_path / "run", epochs=1).path
    other = load_model("scenes_vit", device="cpu")
    with torch.no_grad():
        other.module.norm.weight[0] += 1e-3
    from seewhy.models.heads import attach_head

    with pytest.raises(WeightsError, match="trained on another backbone \\(scenes_vit"):
        attach_head(other, path)
    with pytest.raises(OptionError, match="already holds a run"):
        train_head(backbone, Scenes("single", n=14), out=tmp_path / "run", epochs=1)
    with pytest.raises(WeightsError, match="another samples"):
        train_head(backbone, Scenes("single", n=13), out=tmp_path / "run", epochs=1, resume=True)


def test_a_full_disk_is_one_line(backbone: VisionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.posix_fallocate", full, raising=False)
        with pytest.raises(SeewhyError, match="No space left on device"):
            cached_features(backbone, Scenes("single", n=2), tmp_path)
    assert cached_features(backbone, Scenes("single", n=2), tmp_path).values.shape[1] == 2  # when there is room again


def test_data_of_one_class(backbone: VisionModel, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / "one/images/cats").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / f"one/images/cats/{i}.png")
    with pytest.raises(DataError, match="all samples of the training data are of one class, 'cats'") as error:
        train_head(backbone, Folder(tmp_path / "one"), out=tmp_path / "run")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no sample with one class"):
        check_classes([], ["a"])


def test_the_command(colors: Path, tmp_path: Path) -> None:
    line = ["train", "head", str(colors), "-m", "scenes_vit", "-o", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(app, [*line, "--epochs", "2", "--holdout", "0.3"])
    assert done.exit_code == 0, done.output
    assert "val_accuracy" in done.output
    assert "left out" in done.output
    info = json.loads((tmp_path / "run/head.json").read_text())
    assert info["class_names"] == ["blue", "red"]
    shown = CliRunner().invoke(app, ["info", "scenes_vit", "--head", str(tmp_path / "run"), "--device", "cpu"])
    assert shown.exit_code == 0, shown.output


def test_folds_are_stratified_as_scikit_learns() -> None:
    labels = np.array([0] * 11 + [1] * 7 + [2] * 4)
    folds = stratified_folds(labels, 3, seed=1)
    assert sorted(i for fold in folds for i in fold) == list(range(22))
    theirs = [test for _, test in StratifiedKFold(3, shuffle=True, random_state=0).split(labels, labels)]
    for c in range(3):
        assert sorted((labels[f] == c).sum() for f in folds) == sorted((labels[f] == c).sum() for f in theirs)
    assert not np.array_equal(folds[0], stratified_folds(labels, 3, seed=2)[0])
    with pytest.raises(OptionError, match="use 2 to 22"):
        stratified_folds(labels, 1)
    parts = stratified_parts([0] * 100 + [1] * 40, [0.7225, 0.1275, 0.15], seed=0)
    assert [len(part) for part in parts] == [72 + 29, 13 + 5, 15 + 6]
    assert sorted(np.concatenate(parts)) == list(range(140))
    assert np.bincount(labels[balanced(labels)]).tolist() == [4, 4, 4]
