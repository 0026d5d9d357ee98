"""Real detectors: torchvision's families, and YOLO's plain tensor; the score that is explained is D-RISE's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import seewhy
from seewhy.errors import LayoutError, TargetError
from seewhy.methods import RISE, GradCAM, Occlusion, Saliency
from seewhy.methods.perturbation.masks import RandomMasks
from seewhy.models.adapter import VisionModel
from seewhy.targets import Detection

detection: Any = pytest.importorskip("torchvision").models.detection
boxes: Any = pytest.importorskip("torchvision.ops.boxes")
torchvision_ops: Any = pytest.importorskip("torchvision.ops")
extension: Any = pytest.importorskip("torchvision.extension")


@pytest.fixture(scope="module", autouse=True)
def _nms() -> Iterator[None]:
    """Non-maximum suppression in Python, where torchvision's compiled operators did not load."""
    if extension._has_ops():
        yield
        return
    with pytest.MonkeyPatch.context() as patch, torch.compiler.set_stance("force_eager"):
        patch.setattr(boxes, "nms", plain_nms)
        yield


def plain_nms(found: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    overlaps, free, kept = boxes.box_iou(found, found), torch.ones(len(found), dtype=torch.bool), []
    for i in scores.argsort(descending=True).tolist():
        if free[i]:
            kept.append(i)
            free &= overlaps[i] <= iou_threshold
    return torch.tensor(kept, dtype=torch.long)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    size = {"min_size": 64, "max_size": 96}
    backbone = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    if name == "fasterrcnn":
        pool = torchvision_ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 3, 1)
        few = {"rpn_pre_nms_top_n_test": 20, "rpn_post_nms_top_n_test": 3, "box_detections_per_img": 4}
        made = detection.FasterRCNN(backbone, 4, **size, **few, box_score_thresh=0.0, box_roi_pool=pool)
    else:
        kind = {"retinanet": detection.RetinaNet, "fcos": detection.FCOS}[name]
        made = kind(backbone, 4, **size, score_thresh=0.0, detections_per_img=4, **anchors())
    return made.eval()


def anchors() -> dict[str, Any]:
    """As many levels as this backbone has."""
    sizes = tuple((side,) for side in (8, 16, 32, 64, 128))
    generator = detection.anchor_utils.AnchorGenerator(sizes, ((1.0,),) * 5)
    return {"anchor_generator": generator}


@pytest.fixture(scope="module", params=["fasterrcnn", "retinanet", "fcos"])
def detector(request: pytest.FixtureRequest, _nms: None) -> VisionModel:
    return seewhy.wrap(make(request.param))


@pytest.fixture
def small(cat: Image.Image) -> Image.Image:
    return cat.resize((96, 64))


def test_torchvisions_detectors_are_known(detector: VisionModel, small: Image.Image) -> None:
    assert detector.structure.boxes_in == "pixels"
    x = detector.preprocess_images(small)
    assert x.shape == (1, 3, 64, 96), "in its own size: these models resize and normalize themselves"
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    with torch.no_grad():
        (raw,) = detector.module(x)
    solid = (raw["boxes"][:, 2:] > raw["boxes"][:, :2]).all(1)
    best = int((raw["scores"] * solid).argmax())
    explanation = seewhy.explain(detector, small, "saliency")
    assert explanation.target["index"] == int(raw["labels"][best])
    expected = raw["boxes"][best] / torch.tensor([96, 64, 96, 64])
    assert explanation.target["box"] == pytest.approx(expected.tolist(), abs=1e-5)
    # the match with itself has IoU 1: the map is the gradient of its score
    x.requires_grad_()
    (raw,) = detector.module(x)
    (gradient,) = torch.autograd.grad(raw["scores"][best], x)
    torch.testing.assert_close(explanation.attribution, gradient[0].abs().amax(0), atol=1e-12, rtol=1e-3)


def test_rise_is_d_rise(detector: VisionModel, small: Image.Image) -> None:
    x = detector.preprocess_images(small)
    target = Detection(rank=1).fixed(detector.forward_checked(x))
    masks = RandomMasks("rise", (64, 96), cells=4, p=0.5, seed=0, like=x).next(3)
    by_hand = torch.zeros(64, 96)
    for mask in masks:
        with torch.no_grad():
            (raw,) = detector.module(x * mask)
        is_class = raw["labels"] == target.index[0]
        overlaps = boxes.box_iou(target.box * torch.tensor([96, 64, 96, 64]), raw["boxes"])[0]
        by_hand += mask * (overlaps * raw["scores"] * is_class).max() / (3 * 0.5)
    maps = RISE(detector, n_masks=3, cells=4)(x, target)
    torch.testing.assert_close(maps[0], by_hand, atol=1e-6, rtol=1e-3)


def test_a_cam_of_a_detector_is_told_its_layer(detector: VisionModel, small: Image.Image) -> None:
    with pytest.raises(LayoutError, match=r"say layer='backbone\."):
        GradCAM(detector)
    deepest = detector.structure.stages[-1].name
    x = detector.preprocess_images(small)
    target = Detection().fixed(detector.forward_checked(x))
    maps = GradCAM(detector, layer=deepest, relu=False)(x, target)
    kept: list[Tensor] = []
    handle = detector.module.get_submodule(deepest).register_forward_hook(lambda _, __, out: kept.append(out))
    score = target.score(detector.run(x))
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept[0])
    by_hand = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).detach()
    torch.testing.assert_close(maps, by_hand, atol=1e-9, rtol=1e-3)


def test_a_detector_by_name(small: Image.Image) -> None:
    model = seewhy.load_model("torchvision/ssdlite320_mobilenet_v3_large", pretrained=False)
    assert model.class_names is not None
    assert (model.class_names[0], model.class_names[1]) == ("__background__", "person")
    assert model.as_target("person").index == (1,)
    assert model.output(small).detections.boxes.shape[2] == 4
    assert model.preprocess == seewhy.wrap(model.module).preprocess


# ── YOLO's layout ─────────────────────────────────────────────────────────────────────────────────────────────────────
class Yolo(nn.Module):
    """What ultralytics' DetectionModel gives: (B, 4 + classes, anchors), center and size in pixels; in eval a tuple."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 8, 8)
        self.as_tuple = as_tuple
        with torch.no_grad():
            self.stem.weight.fill_(1 / 192)
            self.stem.bias.zero_()

    def forward(self, x: Tensor) -> Any:
        features = self.stem(x)
        rows, cols = features.shape[-2:]
        y, x0 = torch.meshgrid(torch.arange(rows) * 8.0 + 4, torch.arange(cols) * 8.0 + 4, indexing="ij")
        center = torch.stack([x0, y]).flatten(1).expand(len(x), 2, -1)
        size = torch.full_like(center, 16.0)
        scores = (features[:, :2] * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)).sigmoid().flatten(2)
        table = torch.cat([center, size, scores], 1)
        return (table, [features]) if self.as_tuple else table


@pytest.mark.parametrize("as_tuple", [False, True])
def test_yolos_table_of_boxes(as_tuple: bool) -> None:
    options = {"preprocess": seewhy.Preprocess((64, 96), mean=(0,) * 3, std=(1,) * 3)}
    model = seewhy.wrap(Yolo(as_tuple).eval(), output="detections", class_names=["bright", "dark"], **options)
    x = torch.zeros(1, 3, 64, 96)
    x[0, :, 16:24, 40:48] = 4  # row 2, column 5
    output = model.run(x)
    assert output.detections.boxes.shape == (1, 96, 4)
    target = model.as_target("bright").fixed(output)
    expected = torch.tensor([[36 / 96, 12 / 64, 52 / 96, 28 / 64]])
    torch.testing.assert_close(target.box, expected)
    maps = Occlusion(model, window=8, baseline=0.0)(x, target)
    assert divmod(int(maps[0].argmax()), 12) == (2, 5)
    gradient = Saliency(model)(x, target)
    assert gradient[0, 16:24, 40:48].min() > 0
    assert gradient.count_nonzero() == 64, "only the matched cell's patch"


def test_boxes_are_recognized_by_asking() -> None:
    with pytest.raises(LayoutError, match="output='detections'"):
        seewhy.wrap(Yolo(False).eval(), input_size=(64, 96))
    transposed = nn.Sequential(Yolo(False), nn.Flatten(1, 2), nn.Unflatten(1, (96, 6))).eval()
    with pytest.raises(LayoutError, match=r"shape \(3, 96, 6\).*read=lambda"):
        seewhy.wrap(transposed, output="detections", input_size=(64, 96))


def test_a_box_without_area_is_not_explained() -> None:
    flat = seewhy.targets.Detections(
        torch.tensor([[[0.1, 0.1, 0.1, 0.5], [0.2, 0.2, 0.4, 0.4]]]), torch.tensor([[[0.9], [0.5]]])
    )
    target = Detection().fixed(seewhy.targets.Output(detections=flat))
    torch.testing.assert_close(target.box, torch.tensor([[0.2, 0.2, 0.4, 0.4]]))
    only = seewhy.targets.Output(detections=seewhy.targets.Detections(flat.boxes[:, :1], flat.scores[:, :1]))
    with pytest.raises(TargetError, match="0 times"):
        Detection().fixed(only)


def test_interpolated_scores_stay_with_their_image() -> None:
    images = F.interpolate(torch.rand(2, 3, 8, 12), (64, 96))
    model = seewhy.wrap(Yolo(False).eval(), output="detections", input_size=(64, 96))
    both = Saliency(model)(images)
    for row in range(2):
        torch.testing.assert_close(Saliency(model)(images[row : row + 1])[0], both[row])


def test_the_box_is_drawn(cat: Image.Image) -> None:
    model = seewhy.wrap(Yolo(False).eval(), output="detections", preprocess=seewhy.Preprocess((64, 96), resize=None))
    explanation = seewhy.explain(model, cat, "saliency", Detection((0,), torch.tensor([0.25, 0.25, 0.75, 0.75])))
    drawn, whole = explanation.overlay(size=(240, 360)), explanation.overlay_on_image(cat)
    explanation.target = {}
    for figure, plain in ((drawn, explanation.overlay(size=(240, 360))), (whole, explanation.overlay_on_image(cat))):
        changed = (np.asarray(figure) != np.asarray(plain)).any(-1)
        rows, cols = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        found = (cols[0] / figure.width, rows[0] / figure.height, cols[-1] / figure.width, rows[-1] / figure.height)
        assert found == pytest.approx((0.25, 0.25, 0.75, 0.75), abs=0.02)
        assert not changed[figure.height // 2, figure.width // 2]
