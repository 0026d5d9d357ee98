"""Volumes (B, C, depth, rows, cols): 3-D models are found, fed and explained, and the answer is where it must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.testing
from captum.attr import IntegratedGradients as CaptumIG, Occlusion as CaptumOcclusion
from PIL import Image
from torch import Tensor, nn

import seewhy
from seewhy.cli import app
from seewhy.core.volumes import opened_volume
from seewhy.errors import ImageError, LayoutError, ModelError, OptionError, RequirementError
from seewhy.explanation.volume import VolumeExplanation
from seewhy.methods import (
    METHODS,
    RISE,
    GradCAM,
    GradCAMPlusPlus,
    IntegratedGradients,
    LaFAM,
    LayerCAM,
    Occlusion,
    RefineCAM,
    Saliency,
    ScoreCAM,
    SmoothGrad,
)
from seewhy.methods.baselines import starting_images
from seewhy.methods.factory import quick_options
from seewhy.methods.perturbation.masks import RandomMasks
from seewhy.metrics.inputs import MetricInputs, check_inputs

SIZE = (12, 16, 20)
BALL = (8, 4, 13)
RADIUS = 2.5
SERVED = sorted(name for name, method in METHODS.items() if method.card.volumes)


class Block(nn.Module):
    """A residual block whose weights are told: it smooths, and keeps what is bright."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2, 3, stride, 1)
        self.skip = nn.Conv3d(channels, 2, 1, stride, bias=False)
        with torch.no_grad():
            for part in (self.conv, self.skip):
                part.weight.zero_()
                part.weight[0, 0] = 1 / part.weight[0, 0].numel()
            self.conv.bias.copy_(torch.tensor([-0.1, 0.3]))  # the second channel is the same everywhere

    def forward(self, x: Tensor) -> Tensor:
        return (self.skip(x) + self.conv(x)).relu()


class BallNet(nn.Module):
    """A tiny 3-D ResNet: class 1 is "something bright", class 0 its opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = Block(1, 1), Block(2, 2)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]))
            self.fc.bias.copy_(torch.tensor([2.0, -2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).amax((2, 3, 4)))


def ball(center: tuple[int, int, int] = BALL) -> np.ndarray:
    places = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), -1)
    inside = np.linalg.norm(places - center, axis=-1) <= RADIUS
    return inside.astype(np.float32) + np.random.default_rng(0).random(SIZE, np.float32) * 0.05


@pytest.fixture(scope="module")
def model() -> seewhy.models.VisionModel:
    return seewhy.wrap(BallNet().eval(), input_size=(1, *SIZE))


def test_a_3d_net_is_found(model: Any) -> None:
    assert [(layer.name, layer.layout) for layer in model.structure.stages] == [
        ("layer1", "ncdhw"),
        ("layer2", "ncdhw"),
    ]
    assert model.structure.cam_layer.name == "layer2"
    assert (model.structure.volume, model.classes, model.structure.head) == (True, 2, "fc")
    assert model.preprocess.describe() == "values as they are; to 12×16×20 voxels; mean 0; std 1"


@pytest.mark.parametrize("name", SERVED)
def test_the_map_points_to_the_ball_slice_and_all(model: Any, name: str) -> None:
    cls = METHODS[name]
    options: dict[str, Any] = quick_options(cls)
    if "n_masks" in options:
        options = {"n_masks": 400, "cells": 4}
    explanation = seewhy.explain(model, ball(), cls, 1, **options)
    assert isinstance(explanation, VolumeExplanation)
    place = np.unravel_index(int(explanation.on_image().argmax()), SIZE)
    reach = RADIUS + (2 if name not in ("relax", "u_relax", "rise") else 4)  # cells, and masks, are wider than voxels
    assert np.linalg.norm(np.subtract(place, BALL)) <= reach, f"{name} points to {place}, not {BALL}"
    assert abs(explanation.strongest_slice() - BALL[0]) <= reach
    assert explanation.overlay().size == (200, 160)


def test_what_cannot_serve_volumes_says_so(model: Any) -> None:
    assert {"saliency", "integrated_gradients", "smooth_grad", "grad_cam", "lafam", "occlusion", "rise", "relax"} < set(
        SERVED
    )
    for name in sorted(set(METHODS) - set(SERVED)):
        with pytest.raises(RequirementError, match=r"these can: .*grad_cam"):
            METHODS[name](model)


# ── the same numbers ──────────────────────────────────────────────────────────────────────────────────────────────────
class Flat(nn.Module):
    """A 2-D net; or the same one for volumes of one slice."""

    def __init__(self, volume: bool) -> None:
        super().__init__()
        convolution: Any = nn.Conv3d if volume else nn.Conv2d
        shape: Any = (lambda side: (1, side, side)) if volume else (lambda side: (side, side))
        self.a = convolution(2, 6, shape(3), padding=(0, 1, 1) if volume else 1)
        self.pool = (nn.AvgPool3d if volume else nn.AvgPool2d)(shape(2))
        self.b = convolution(6, 8, shape(3), padding=(0, 1, 1) if volume else 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.pool(self.a(x).relu())).relu().flatten(2).mean(2))


@pytest.fixture(scope="module")
def twins() -> tuple[Any, Any, Tensor]:
    torch.manual_seed(3)
    flat, deep = Flat(False).eval(), Flat(True).eval()
    deep.load_state_dict({k: v[:, :, None] if v.ndim == 4 else v for k, v in flat.state_dict().items()})
    one = seewhy.wrap(flat, input_size=(2, 16, 24), preprocess=seewhy.Preprocess((16, 24), mean=(0,) * 2, std=(1,) * 2))
    return one, seewhy.wrap(deep, input_size=(2, 1, 16, 24)), torch.rand(2, 2, 16, 24)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (Saliency, {}),
        (Saliency, {"channels": "mean", "signed": True}),
        (IntegratedGradients, {"baseline": "zero", "n_steps": 4}),
        (IntegratedGradients, {"baseline": "mean", "n_steps": 4}),
        (SmoothGrad, {"n_samples": 3}),
        (GradCAM, {}),
        (GradCAMPlusPlus, {}),
        (LayerCAM, {"layer": "a"}),
        (LaFAM, {"threshold": 0.3}),
        (ScoreCAM, {"layer": "b", "top_k": 3}),
        (RefineCAM, {}),
        (Occlusion, {"window": 1, "stride": 1}),
    ],
)
def test_a_volume_of_one_slice_is_the_image(twins: Any, method: Any, options: dict[str, Any]) -> None:
    flat, deep, x = twins
    if method is RefineCAM:
        options = {"layers": ["a", "b"]}
    maps = method(flat, **options)(x, 1)
    torch.testing.assert_close(method(deep, **options)(x[:, :, None], 1)[:, 0], maps, atol=1e-6, rtol=1e-5)


def test_gradients_and_windows_are_captums(model: Any) -> None:
    x = torch.rand(2, 1, *SIZE)
    module = model.module
    theirs = CaptumIG(module).attribute(x, torch.zeros_like(x), target=1, n_steps=5, method="riemann_middle")
    ours = IntegratedGradients(model, baseline="zero", n_steps=5)(x, 1)
    torch.testing.assert_close(ours, theirs.sum(1).float(), atol=1e-5, rtol=1e-4)
    theirs = CaptumOcclusion(module).attribute(x, (1, 4, 4, 4), strides=(1, 4, 4, 4), baselines=0.0, target=1)
    ours = Occlusion(model, window=4, baseline="zero")(x, 1)
    torch.testing.assert_close(ours, theirs[:, 0, ::4, ::4, ::4], atol=1e-5, rtol=1e-4)


def test_masks_of_volumes_are_products_of_their_sides(model: Any) -> None:
    x = torch.rand(1, 1, *SIZE)
    masks = RandomMasks("rise", SIZE, cells=3, p=0.5, seed=0, like=x).next(5)
    assert masks.shape == (5, *SIZE)
    assert 0.3 < float(masks.mean()) < 0.7
    # where the random cells do not vary along depth, neither does the mask: one slice is the mask of an image
    scores = torch.stack([model.module(x * mask).softmax(-1)[0, 1] for mask in masks])
    by_hand = (scores[:, None, None, None] * masks).sum(0) / (5 * 0.5)
    torch.testing.assert_close(RISE(model, n_masks=5, cells=3)(x, 1)[0], by_hand, atol=1e-6, rtol=1e-5)
    hard = RandomMasks("nearest", SIZE, cells=2, p=0.5, seed=1, like=x).next(3)
    assert set(hard.unique().tolist()) <= {0.0, 1.0}
    for depth in (slice(0, 6), slice(6, 12)):
        assert torch.equal(hard[:, depth].amin(1), hard[:, depth].amax(1))


def test_what_covers_voxels() -> None:
    windowed = seewhy.VolumePreprocess(SIZE, levels=(-1000, 400), mean=(0.5,), std=(0.25,))
    model = seewhy.wrap(BallNet().eval(), preprocess=windowed)
    x = model.preprocess_images(ball() * 400)
    assert starting_images(model, x, "black").unique().item() == pytest.approx(-2.0)
    assert starting_images(model, x, "white").unique().item() == pytest.approx(2.0)
    blurred = starting_images(model, x, "blur")
    assert blurred.shape == x.shape
    assert float(blurred.std()) < float(x.std())
    with pytest.raises(OptionError, match="no meaning in a volume"):
        starting_images(model, x, "red")


# ── volumes in ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_arrays_tensors_and_files_are_the_same_volume(model: Any, tmp_path: Path) -> None:
    values = ball()
    np.save(tmp_path / "scan.npy", values)
    pages = [Image.fromarray(page) for page in values]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    expected = torch.from_numpy(values)[None, None]
    kinds = (values, values[None], torch.from_numpy(values), tmp_path / "scan.npy", str(tmp_path / "scan.tif"))
    for volume in kinds:
        assert torch.equal(model.preprocess_images(volume), expected)
    outcomes = list(seewhy.explain_each(model, [tmp_path / "scan.npy", tmp_path / "no.npy", values], ["saliency"]))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(expected), batch_size=1)
    alone = seewhy.explain(model, values, "saliency")
    torch.testing.assert_close(seewhy.explain(model, loader, "saliency")[0].attribution, alone.attribution)


def test_a_series_of_dicom_slices_in_the_order_of_their_places(model: Any, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    values = (ball() * 1000).astype(np.int16)
    for number in np.random.default_rng(0).permutation(SIZE[0]):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.{number}"
        data.SeriesInstanceUID, data.PhotometricInterpretation = "1.9", "MONOCHROME2"
        data.Rows, data.Columns = SIZE[1:]
        data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 16, 16, 15
        data.PixelRepresentation, data.RescaleSlope, data.RescaleIntercept = 1, 1, -1000
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2.5 * number], [1, 0, 0, 0, 1, 0]
        data.PixelData = values[number].tobytes()
        data.save_as(tmp_path / f"{(7 * number) % 12:02d}.dcm", enforce_file_format=True)
    read = opened_volume(tmp_path)()
    np.testing.assert_array_equal(read.values[0], values.astype(np.float32) - 1000)


def test_another_size_is_resized_and_the_map_comes_back(model: Any) -> None:
    large = np.asarray(ball()).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    explanation = seewhy.explain(model, large, "saliency", 1)
    assert explanation.on_image().shape == large.shape
    assert explanation.mask().dtype == torch.bool
    place = np.unravel_index(int(explanation.on_image().argmax()), large.shape)
    assert np.linalg.norm(np.subtract(place, np.multiply(BALL, 2))) <= 2 * RADIUS + 3


def test_what_is_no_volume(model: Any, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"")
    for volume, message in (
        (np.zeros((3, 4)), "a volume is"),
        (np.zeros((2, *SIZE)), "the model takes 1"),
        (np.zeros((*SIZE, 1)), "channels last"),
        (np.full(SIZE, np.nan), "NaN"),
        (tmp_path / "a.nii.gz", r"nibabel\.load"),
        (tmp_path, "no series of DICOM"),
        (Image.new("L", (4, 4)), "is not a volume"),
    ):
        with pytest.raises(ImageError, match=message):
            seewhy.explain(model, volume, "saliency")
    with pytest.raises(ModelError, match="B, C, D, H, W"):
        Saliency(model)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(OptionError, match="channels, depth, rows, cols"):
        seewhy.wrap(BallNet(), input_size=(1, 2, 3, 4, 5))


def test_a_preprocess_of_ones_own_gets_the_array(model: Any) -> None:
    def halved(values: np.ndarray) -> Tensor:
        assert values.shape == (1, *SIZE)
        return torch.from_numpy(values / 2)

    own = seewhy.wrap(BallNet().eval(), input_size=(1, *SIZE), preprocess=halved)
    assert torch.equal(own.preprocess_images(ball()) * 2, model.preprocess_images(ball()))


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_slices_are_drawn_on_the_scale_of_the_whole_map(model: Any, tmp_path: Path) -> None:
    explanation = seewhy.explain(model, ball(), "saliency", 1)
    far = explanation.overlay(index=0)
    near = explanation.overlay(index=BALL[0])
    assert far.crop((0, 40, 200, 160)).convert("L").convert("RGB") == far.crop((0, 40, 200, 160)), "no color there"
    assert near != far
    assert explanation.overlay() == explanation.overlay(index=explanation.strongest_slice())
    assert explanation.overlay(axis=2).size == (16 * 13, 12 * 13)
    assert explanation.heatmap(index=-1, axis=1).size == (200, 120)
    for wrong in ({"index": 12}, {"axis": 3}):
        with pytest.raises(OptionError):
            explanation.overlay(**wrong)
    with pytest.raises(OptionError, match="mask"):
        explanation.boxes()
    figure = seewhy.viz.slices_figure(explanation, 4)
    assert figure.width > figure.height
    explanation.save(tmp_path / "saved")
    loaded = seewhy.Explanation.load(tmp_path / "saved")
    assert isinstance(loaded, VolumeExplanation)
    assert torch.equal(loaded.attribution, explanation.attribution)
    assert loaded.overlay() == explanation.overlay()
    assert seewhy.viz.explanation_grid([[explanation]]).width > 0


# ── what is no volume is told how to become one ───────────────────────────────────────────────────────────────────────
class Video(nn.Module):
    """Takes (B, frames, channels, rows, cols)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.conv(x.flatten(0, 1)).relu().mean((2, 3))
        return self.fc(frames.unflatten(0, x.shape[:2]).mean(1))


class Swapped(nn.Module):
    """A video module that takes volumes."""

    def __init__(self, video: nn.Module) -> None:
        super().__init__()
        self.video = video

    def forward(self, x: Tensor) -> Tensor:
        return self.video(x.transpose(1, 2))


class WithTable(nn.Module):
    """Takes an image and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(6, 2)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.fc(torch.cat([self.conv(image).relu().mean((2, 3)), table], 1))


def test_videos_bags_and_tables_are_told_how() -> None:
    with pytest.raises(LayoutError, match=r"no 3-D convolution.* of videos .* swaps the axes"):
        seewhy.wrap(Video().eval(), input_size=(4, 3, 16, 16))
    with pytest.raises(ModelError, match=r"of videos .* swaps the axes"):
        seewhy.wrap(Video().eval(), input_size=(3, 4, 16, 16), layout="ncdhw")
    swapped = seewhy.wrap(Swapped(Video().eval()), input_size=(3, 4, 16, 16), layout="ncdhw")
    clip = np.random.default_rng(0).random((3, 4, 16, 16), np.float32)
    assert seewhy.explain(swapped, clip, "saliency", 0).attribution.shape == (4, 16, 16)
    with pytest.raises(ModelError, match="takes table beside the image: wrap a module that takes the image alone"):
        seewhy.wrap(WithTable().eval(), input_size=32)


class Tokens(nn.Module):
    """A transformer on patches of a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(1, 8, 4, 4)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.patch(x).flatten(2).mT).mean(1))


def test_a_transformer_of_volumes_has_no_layer_by_default() -> None:
    model = seewhy.wrap(Tokens().eval(), input_size=(1, *SIZE))
    with pytest.raises(LayoutError, match=r"tokens of volumes are not laid out; saliency"):
        GradCAM(model)
    assert seewhy.explain(model, ball(), "saliency", 0).attribution.shape == SIZE


def test_metrics_take_slices(model: Any) -> None:
    maps = Saliency(model)(model.preprocess_images(ball()), 1)
    with pytest.raises(OptionError, match="one slice at a time"):
        check_inputs(seewhy.metrics.Sparseness.card, maps, MetricInputs())


def test_commands_take_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import seewhy\nfrom test_volumes import SIZE, BallNet\n\n\n"
        "def make():\n    return seewhy.wrap(BallNet().eval(), input_size=(1, *SIZE))\n"
    )
    np.save("scan.npy", ball())
    run = typer.testing.CliRunner()
    result = run.invoke(app, ["explain", "scan.npy", "-m", "net.py:make", "-M", "grad_cam", "-t", "1", "--json"])
    (row,) = json.loads(result.stdout[result.stdout.index("[") :])
    assert (row["error"], row["grid"], row["image_size"]) == (None, [6, 8, 10], list(SIZE))
    assert Path(row["folder"], "overlay.png").is_file()
    result = run.invoke(app, ["info", "net.py:make"])
    assert "input 12×16×20" in result.stdout
    result = run.invoke(app, ["randomization-test", "scan.npy", "-m", "net.py:make", "-M", "saliency"])
    assert isinstance(result.exception, RequirementError)
