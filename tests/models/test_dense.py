"""Segmentation models and object detectors: each target against a sum or a search written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import seewhy
from seewhy.core.cards import Capability
from seewhy.errors import LayoutError, TargetError, UnknownNameError
from seewhy.methods import RISE, GradCAM, Occlusion, Saliency
from seewhy.models.adapter import VisionModel
from seewhy.models.dense import read_detections, read_segmentation
from seewhy.models.structure import Layer, Structure
from seewhy.targets import Against, Detection, Detections, Output, Region

NAMES = ["sky", "cat", "grass"]


class Segmenter(nn.Module):
    """An encoder of two stages, a decoder, three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(24)
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.up = nn.Conv2d(8, 3, 1)
        self.up.weight.data -= self.up.weight.data.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.up(self.down(x)), x.shape[-2:], mode="bilinear")


def segmenter() -> VisionModel:
    layer = Layer("down", "nchw")
    structure = Structure(
        "module", (layer,), layer, read=read_segmentation, has_logits=False, has_embedding=False, has_segmentation=True
    )
    return VisionModel(Segmenter().eval(), structure, preprocess=seewhy.Preprocess(size=(32, 48)), class_names=NAMES)


def test_the_region_is_where_the_model_sees_the_class(cat: Image.Image) -> None:
    model = segmenter()
    x = model.preprocess_images(cat)
    with torch.no_grad():
        model.module.up.bias -= model.module(x).mean((0, 2, 3))  # so that each class is the largest somewhere
        scores = model.module(x)
    areas = F.one_hot(scores.argmax(1), 3).sum((1, 2))[0]
    largest = int(areas.argmax())
    explanation = seewhy.explain(model, cat, GradCAM(model))
    assert (explanation.target["kind"], explanation.target["label"]) == ("region", NAMES[largest])
    assert explanation.target["cells"] == int(areas[largest])
    # Seg-Grad-CAM, written out
    activations = model.module.down(x).requires_grad_()
    out = F.interpolate(model.module.up(activations), x.shape[-2:], mode="bilinear")
    (gradient,) = torch.autograd.grad((out[0, largest] * (scores[0].argmax(0) == largest)).sum(), activations)
    plain = (gradient.mean((2, 3), keepdim=True) * activations).sum(1).relu()[0].detach()
    torch.testing.assert_close(explanation.attribution, plain, atol=1e-5, rtol=1e-4)
    second = seewhy.explain(model, cat, GradCAM(model), "top-2")
    assert second.target["index"] == int(areas.argsort(descending=True)[1])


def test_a_mask_of_ones_own_and_a_class_by_name(cat: Image.Image) -> None:
    model = segmenter()
    x = model.preprocess_images(cat)
    mask = torch.zeros(8, 12, dtype=torch.bool)
    mask[2:4, 3:6] = True
    explanation = seewhy.explain(model, cat, Saliency(model), Region((1,), mask))
    x = x.clone().requires_grad_()
    whole = F.interpolate(mask[None, None].float(), (32, 48), mode="nearest-exact")[0, 0]
    (gradient,) = torch.autograd.grad((model.module(x)[0, 1] * whole).sum(), x)
    torch.testing.assert_close(explanation.attribution, gradient[0].abs().amax(0), atol=1e-5, rtol=1e-4)
    assert model.as_target("cat").label(0, NAMES) == "cat"
    assert isinstance(model.as_target(seewhy.targets.against(model, "cat")), Against)
    with pytest.raises(UnknownNameError, match="cat"):
        model.as_target("cats")


def test_each_image_has_a_region_of_its_own(cat: Image.Image) -> None:
    model = segmenter()
    both = [cat, cat.rotate(180)]
    together = seewhy.explain(model, both, RISE(model, n_masks=4))
    for image, explanation in zip(both, together, strict=True):
        alone = seewhy.explain(model, image, RISE(model, n_masks=4))
        torch.testing.assert_close(alone.attribution, explanation.attribution)


def test_what_a_region_cannot_be(cat: Image.Image) -> None:
    model = segmenter()
    for target, message in (
        (5, "out of range"),
        ("top-4", "out of range"),
        (Region((1,), torch.ones(3, 8, 8, dtype=torch.bool)), "3 masks for 1 image"),
    ):
        with pytest.raises(TargetError, match=message):
            seewhy.explain(model, cat, Saliency(model), target)
    with pytest.raises(TargetError, match="empty"):
        Region((1,), torch.zeros(4, 4, dtype=torch.bool))
    never = Output(segmentation=torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)], 1))
    with pytest.raises(TargetError, match="no pixel of class 1"):
        Region((1,)).fixed(never)
    with pytest.raises(TargetError, match="gives no segmentation"):
        seewhy.explain(seewhy.load_model("scenes_cnn"), cat, "saliency", Region((0,)))


def test_wrap_takes_a_segmentation_net_and_not_its_output_for_the_layer(cat: Image.Image) -> None:
    options = {"preprocess": seewhy.Preprocess(size=(32, 48))}
    named = seewhy.wrap(Segmenter().eval(), class_names=NAMES, **options)
    said = seewhy.wrap(Segmenter().eval(), output="segmentation", **options)
    for model in (named, said):
        assert model.structure.cam_layer.name == "down"
        assert model.classes == 3
        by_hand = seewhy.explain(segmenter(), cat, GradCAM(segmenter()))
        torch.testing.assert_close(seewhy.explain(model, cat, GradCAM(model)).attribution, by_hand.attribution)
    with pytest.raises(LayoutError, match="output='segmentation'"):  # it could be an image or a depth map as well
        seewhy.wrap(Segmenter().eval(), **options)


# ── detectors ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def test_the_match_is_the_best_product_of_overlap_and_score() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 6, 2, generator=generator) * 0.5
    boxes = torch.cat([corner, corner + 0.1 + torch.rand(2, 6, 2, generator=generator) * 0.4], -1)
    scores = torch.rand(2, 6, 3, generator=generator)
    output = Output(detections=Detections(boxes, scores))
    box = [0.2, 0.2, 0.6, 0.5]
    expected = [max(iou(box, boxes[row, i].tolist()) * scores[row, i, 1].item() for i in range(6)) for row in range(2)]
    target = Detection((1,), torch.tensor(box))
    torch.testing.assert_close(target.score(output), torch.tensor(expected), atol=1e-6, rtol=1e-5)
    settled = Detection(rank=2).fixed(output)
    for row in range(2):
        order = scores[row].amax(1).argsort(descending=True)
        assert settled.index[row] == int(scores[row, order[1]].argmax())
        assert torch.equal(settled.box[row], boxes[row, order[1]])
    torch.testing.assert_close(settled.score(output)[0], settled.at([0, 1]).score(output)[0])
    nothing = Output(detections=Detections(boxes[:, :0], scores[:, :0]))
    assert target.score(nothing).tolist() == [0, 0]
    with pytest.raises(TargetError, match="detects something 0 times"):
        Detection().fixed(nothing)


def yolos() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.YolosConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, image_size=[32, 48],
        patch_size=8, num_detection_tokens=5, num_labels=4,
    )  # fmt: skip
    return transformers.YolosForObjectDetection(config).eval()


def detector(module: nn.Module, boxes_in: str, **options: Any) -> VisionModel:
    structure = Structure(
        "module", read=read_detections, has_logits=False, has_embedding=False, boxes_in=boxes_in, **options
    )
    return VisionModel(module, structure, preprocess=seewhy.Preprocess(size=(32, 48)))


def test_a_detector_of_transformers(cat: Image.Image) -> None:
    model = detector(yolos(), "fractions")
    x = model.preprocess_images(cat)
    with torch.no_grad():
        raw = model.module(x)
    probabilities = raw.logits.softmax(-1)[0, :, :-1]
    best = int(probabilities.amax(1).argmax())
    explanation = seewhy.explain(model, cat, Occlusion(model, window=8))
    center, size = raw.pred_boxes[0, best, :2], raw.pred_boxes[0, best, 2:]
    assert explanation.target["box"] == pytest.approx(torch.cat([center - size / 2, center + size / 2]).tolist())
    assert explanation.target["index"] == int(probabilities[best].argmax())
    assert not explanation.is_constant
    assert not seewhy.explain(model, cat, Saliency(model)).is_constant
    assert Capability.DETECTIONS in model.capabilities


def test_wrap_takes_a_detector(cat: Image.Image) -> None:
    module = yolos()
    model = seewhy.wrap(module, preprocess=seewhy.Preprocess(size=(32, 48)))
    by_hand = detector(module, "fractions")
    maps = [seewhy.explain(each, cat, Saliency(each)).attribution for each in (model, by_hand)]
    torch.testing.assert_close(*maps)
    blind = seewhy.wrap(Finder(), preprocess=seewhy.Preprocess(size=(32, 48)))  # it finds nothing in noise
    assert "no box is found" in blind.structure.note
    x = torch.zeros(1, 3, 32, 48)
    x[0, :, 8:16, 24:32] = 3
    maps = Occlusion(blind, window=8, baseline=0.0)(x)
    assert divmod(int(maps[0].argmax()), maps.shape[-1]) == (1, 3)


class Finder(nn.Module):
    """A detector as torchvision's: a dict for each image; it finds the brightest cell of a grid, or nothing."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for cells in F.avg_pool2d(x.mean(1, keepdim=True), 8).flatten(1):
            score, cell = cells.sigmoid().max(0)
            row, col = divmod(int(cell), x.shape[-1] // 8)
            boxes = torch.tensor([[col * 8.0, row * 8.0, col * 8.0 + 8, row * 8.0 + 8]])
            keep = score[None] > 0.6
            found.append({"boxes": boxes[keep], "labels": torch.tensor([2])[keep], "scores": score[None][keep]})
        return found


def test_a_detector_as_torchvisions_boxes_in_pixels() -> None:
    model = detector(Finder(), "pixels")
    x = torch.zeros(2, 3, 32, 48)
    x[0, :, 8:16, 24:32] = 3
    output = model.run(x)
    assert output.detections.boxes[0, 0].tolist() == pytest.approx([24 / 48, 8 / 32, 32 / 48, 16 / 32])
    assert output.detections.scores.shape == (2, 1, 3)
    assert output.detections.scores[1].sum() == 0
    maps = Occlusion(model, window=8, baseline=0.0)(x[:1])
    assert divmod(int(maps[0].argmax()), maps.shape[-1]) == (1, 3)
    with pytest.raises(TargetError, match="in image 1"):
        Saliency(model)(x)
