"""Two images explained together, and one image in many tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import seewhy
from seewhy.errors import OptionError, TargetError
from seewhy.methods import GradCAM, InputXGradient, Saliency

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


class Encoder(nn.Module):
    """An embedding of what is where: four convolutions' means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, 2)
        self.deep = nn.Conv2d(8, 6, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(self.conv(x).relu()).mean((2, 3))


@pytest.fixture
def encoder() -> Any:
    return seewhy.wrap(Encoder().eval(), output="embedding", preprocess=seewhy.Preprocess((32, 48), **PLAIN))


@pytest.mark.parametrize("measure", ["cosine", "dot", "l2"])
def test_a_pair_is_symmetric_and_scored(encoder: Any, cat: Image.Image, coffee: Image.Image, measure: str) -> None:
    a, b = seewhy.explain_pair(encoder, cat, coffee, "saliency", measure=measure)
    swapped = seewhy.explain_pair(encoder, coffee, cat, "saliency", measure=measure)
    torch.testing.assert_close(swapped[0].attribution, b.attribution)
    torch.testing.assert_close(swapped[1].attribution, a.attribution)
    vectors = encoder.embed([cat, coffee])
    similarity = {
        "cosine": F.cosine_similarity,
        "dot": lambda u, v: (u * v).sum(-1),
        "l2": lambda u, v: -(u - v).norm(),
    }
    expected = float(similarity[measure](vectors[:1], vectors[1:]))
    assert a.target["score"] == pytest.approx(expected, abs=1e-6) == b.target["score"]
    assert a.title == f"Saliency · similarity ({expected:.2f})"
    # the gradient of the similarity, the other held fixed
    x = encoder.preprocess_images(cat).requires_grad_()
    score = similarity[measure](encoder.module(x), vectors[1:]).sum()
    (gradient,) = torch.autograd.grad(score, x)
    torch.testing.assert_close(a.attribution, gradient[0].abs().amax(0), atol=1e-7, rtol=1e-4)


def test_a_pair_needs_a_method_with_a_target(encoder: Any, cat: Image.Image) -> None:
    with pytest.raises(OptionError, match="has no target"):
        seewhy.explain_pair(encoder, cat, cat, "relax", n_masks=2)
    a, b = seewhy.explain_pair(encoder, cat, cat.rotate(180))
    assert a.method == b.method == "grad_cam"
    figure = seewhy.viz.pair_figure(a, b)
    assert figure.width > 2 * 240


# ── tiles ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Squares(nn.Module):
    """Class 0 is Σ x², whose gradient in each pixel depends on this pixel only."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        total = (x**2).sum((1, 2, 3))
        return torch.stack([total, -total], 1)


@pytest.fixture
def squares() -> Any:
    return seewhy.wrap(Squares().eval(), output="logits", preprocess=seewhy.Preprocess((32, 40), **PLAIN))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_tiles_are_put_together_pixel_by_pixel(squares: Any, overlap: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (75, 101, 3), np.uint8)
    explanation = seewhy.explain_tiled(squares, image, "saliency", 0, overlap=overlap)
    expected = 2 * torch.from_numpy(image / 255).amax(-1).float()
    torch.testing.assert_close(explanation.attribution, expected, atol=1e-5, rtol=1e-5)
    assert explanation.on_image().shape == (75, 101)
    tops = 1 + -(-(75 - 32) // int(32 * (1 - overlap)))
    lefts = 1 + -(-(101 - 40) // int(40 * (1 - overlap)))
    assert explanation.options["tiles"] == tops * lefts


def test_one_class_for_all_tiles_and_levels_beyond_eight_bits(squares: Any) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (40, 60), np.uint16)
    explanation = seewhy.explain_tiled(squares, deep, InputXGradient(squares))
    assert explanation.target["label"] == "class 0"  # what the model answers to the whole image
    values = torch.from_numpy(deep / 65535).float()
    torch.testing.assert_close(explanation.attribution, 6 * values**2, atol=1e-4, rtol=1e-4)


def test_larger_tiles_are_resized(squares: Any, cat: Image.Image) -> None:
    explanation = seewhy.explain_tiled(squares, cat, "saliency", 0, tile=(96, 120))
    assert explanation.attribution.shape == (300, 451)
    assert explanation.options["tiles"] == 4 * 5


def test_what_tiles_cannot_do(squares: Any, cat: Image.Image) -> None:
    for options, message in (({"tile": 500}, "seewhy.explain"), ({"overlap": 1.0}, "no share")):
        with pytest.raises(OptionError, match=message):
            seewhy.explain_tiled(squares, cat, "saliency", 0, **options)
    with pytest.raises(TargetError, match="whole image"):
        seewhy.explain_tiled(squares, cat, "saliency", seewhy.targets.Region((0,)))


# ── several layers ────────────────────────────────────────────────────────────────────────────────────────────────────
class Two(nn.Module):
    """A net with two layers to choose from."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 6, 5, 2), nn.Conv2d(6, 8, 3, 2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_plus_plus", "layer_cam"])
def test_several_layers_are_averaged_as_pytorch_grad_cam_does(name: str) -> None:
    theirs: Any = pytest.importorskip("pytorch_grad_cam")
    targets: Any = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    kind = {"grad_cam": "GradCAM", "grad_cam_plus_plus": "GradCAMPlusPlus", "layer_cam": "LayerCAM"}[name]
    module = Two().eval()
    model = seewhy.wrap(module, preprocess=seewhy.Preprocess((40, 56), **PLAIN))
    x = torch.rand(2, 3, 40, 56)
    options = {"alpha": "literal"} if name == "grad_cam_plus_plus" else {}
    method = seewhy.methods.METHODS[name](model, layer=["b", "a"], **options)
    maps = method(x, 1)
    with getattr(theirs, kind)(model=module, target_layers=[module.a, module.b]) as cam:
        expected = torch.from_numpy(cam(x.clone(), [targets.ClassifierOutputTarget(1)] * 2))
    normalized = torch.stack([seewhy.Explanation(each, name).normalized() for each in maps])
    torch.testing.assert_close(normalized, expected, atol=1e-4, rtol=1e-3)
    assert method.layer_name == "a + b"
    alone = seewhy.methods.METHODS[name](model, layer=["b"], **options)
    torch.testing.assert_close(alone(x, 1), seewhy.methods.METHODS[name](model, layer="b", **options)(x, 1))


def test_layers_are_named_in_the_explanation(cat: Image.Image) -> None:
    model = seewhy.wrap(Two().eval(), preprocess=seewhy.Preprocess((40, 56), **PLAIN))
    explanation = seewhy.explain(model, cat, "grad_cam", layer=["a", "b"])
    assert explanation.layer == "a + b"
    assert explanation.attribution.shape == (40, 56)
    with pytest.raises(OptionError, match="names no layer"):
        GradCAM(model, layer=[])
    assert seewhy.explain(model, cat, Saliency(model)).layer is None
