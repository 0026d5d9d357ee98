"""Every adapter's models × every method: a finite map on the right grid, or a reason before any forward.

`python tests/models/test_matrix.py` prints the table.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("transformers")

import test_hf
import test_open_clip
import test_timm
import test_torchvision
import toys
import trained

from seewhy import targets
from seewhy.checks.core import few_repetitions
from seewhy.core.cards import Capability
from seewhy.core.options import options_of
from seewhy.errors import LayoutError, ModelError, RequirementError
from seewhy.methods import METHODS


def _timm(case):
    return lambda: test_timm.make(*case[:2])


def _torchvision(build):
    return lambda: test_torchvision.make(build)


def _hf(case):
    return lambda: test_hf.made(case)


def _open_clip(name):
    return lambda: test_open_clip.vision_transformer(name)


MODELS = {
    **{f"timm {name}": _timm(case) for name, case in {**test_timm.VITS, **test_timm.MAPS}.items()},
    **{f"torchvision {name}": _torchvision(case[0]) for name, case in test_torchvision.MAPS.items()},
    "torchvision ViT": _torchvision(lambda: test_torchvision.models.VisionTransformer(**test_torchvision.VIT)),
    **{f"hf {name}": _hf(case) for name, case in {**test_hf.TRANSFORMERS, **test_hf.OTHERS}.items()},
    **{f"open_clip {name}": _open_clip(name) for name in test_open_clip.TRANSFORMERS},
    "toy cnn": toys.toy_cnn,
    "toy vit": toys.toy_vit,
}
FEW = 4
"""Repetitions of the methods that repeat themselves."""
NEEDS_ALL_TOKENS = {"Beit", "Eva", "VisionTransformerRelPos"}
"""Relative or rotary positions are tied to the whole grid."""


def size_of(name: str) -> tuple[int, int]:
    source, _, case = name.partition(" ")
    if source == "timm" and case in test_timm.VITS:
        return test_timm.VITS[case][4]
    if name in {"torchvision ViT", "open_clip square"}:
        return 32, 32
    return (64, 96) if case in {**test_timm.MAPS, **test_torchvision.MAPS, **test_hf.OTHERS} else (32, 48)


SHALLOW = {"ala": {"taps": None}, "abn": {}}
"""Settings of trained methods that any depth has."""


def outcome(model, cls, x) -> str:
    """`yes`, or why not."""
    if cls.why_incompatible(model):
        with pytest.raises(RequirementError):
            cls(model)
        return "not offered"
    options = few_repetitions(cls, FEW)
    if "relu" in options_of(cls):
        options["relu"] = False  # clipping can leave nothing in an untrained model
    if cls.card.trained:
        fitted = trained.fit(cls.card.name, model, data=trained.Fixed(x), epochs=1, networks=SHALLOW[cls.card.name])
        options["weights"] = fitted.fitted
    method = cls(model, **options)
    output = model.forward_checked(x)
    if cls.card.target_kind == "concept":
        target = targets.Similarity(torch.randn(output.embedding.shape[1]))
    else:
        target = [1, 3] if Capability.LOGITS in model.capabilities else targets.embedding_norm()
    if cls.card.name == "token_ablation" and model.name in NEEDS_ALL_TOKENS:
        with pytest.raises(LayoutError, match="one token less"):
            method(x, target)
        return "impossible"
    try:
        maps = method(x, target)
    except ModelError as refusal:
        if " has no rule for " not in str(refusal):
            raise
        return "impossible"  # an operation that relevance propagation does not know, named in the message
    except RequirementError as refusal:
        if " changes the gradient of ReLUs" not in str(refusal):
            raise
        return "impossible"  # its ReLUs are in the position bias, which the image does not pass: only the run tells
    assert maps.ndim == 3
    assert maps.shape[0] == 2
    assert torch.isfinite(maps).all()
    # in an untrained model clipping may leave nothing, and all that masks leave over may be embedded alike
    clipped = cls.card.class_specific and not cls.card.signed
    moving = (maps.flatten(1).std(1) > 0).any() or maps.shape[1:].numel() == 1
    assert clipped or "relax" in cls.card.name or moving, "a constant map"
    rows, cols = maps.shape[1:]
    assert (rows < cols) == (x.shape[2] < x.shape[3]) or rows == cols, "rows and columns swapped"
    return "yes"


KINDS = {
    "timm class token",
    "timm registers",
    "timm mean",
    "timm Swin",
    "timm ResNet",
    "timm EfficientNet",
    "torchvision ResNet",
    "torchvision ViT",
    "hf vit",
    "hf registers",
    "hf clip_projection",
    "hf swin",
    "open_clip class_token",
    "toy cnn",
    "toy vit",
}
"""One of each kind; the others are slow tests."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in KINDS else pytest.mark.slow) for n in MODELS])
def test_every_method_serves_the_model_or_says_why_not(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    x = torch.randn(2, 3, *size_of(name))
    served = [cls.card.name for cls in METHODS.values() if outcome(model, cls, x) == "yes"]
    assert {"saliency", "integrated_gradients", "lafam", "grad_cam"} <= set(served)


if __name__ == "__main__":
    names = METHODS.names()
    print("| model |", " | ".join(names), "|\n|---|" + "---|" * len(names))
    for name in MODELS:
        torch.manual_seed(0)
        model = MODELS[name]()
        row = [outcome(model, METHODS[n], torch.randn(2, 3, *size_of(name))) for n in names]
        print("|", name, "|", " | ".join({"yes": "✓", "not offered": "-", "impossible": "×"}[c] for c in row), "|")
