"""One small model of each architecture family of the libraries, with random weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import seewhy
from seewhy.models.adapter import VisionModel

Family = tuple[str, str, Callable[[], VisionModel]]
"""Family, model, and what makes it."""
TIMM = Path(__file__).with_name("census_timm.txt")
"""The smallest model of each file and class of timm, by parameters × pixels, a line each: `file:Class name`."""

DEEP = {"beit", "eva", "deepseek_vit", "gemma4_vit", "qwen3_vit", "naflexvit", "vision_transformer_sam"}
"""Files of timm whose smallest model is large: three blocks are enough."""
LARGE = {"deepseek_vit": 252, "gemma4_vit": 192, "qwen3_vit": 192, "mobilenetv5": 256, "hieradet_sam2": 256}
"""Files of timm whose models are made for large images, and the side of those that they get."""


def all_families() -> Iterator[Family]:
    """Yield all of them, library by library."""
    yield from timm_families()
    yield from torchvision_families()
    yield from hf_classifiers()
    yield from hf_towers()
    yield from open_clip_families()


def timm_families() -> Iterator[Family]:
    """Yield the families of timm; files that the list does not name yet come with their first model."""
    from timm.models import _registry

    listed = [line.split() for line in TIMM.read_text(encoding="utf-8").splitlines()]
    files = {family.split(":")[0] for family, _ in listed}
    new = [
        (f"{file}:new", sorted(names)[0]) for file, names in _registry._module_to_models.items() if file not in files
    ]
    for family, name in [*listed, *new]:
        file = family.split(":")[0]
        options: dict[str, Any] = {"depth": 3} if file in DEEP else {}
        if file in LARGE:
            options["pretrained_cfg_overlay"] = {"input_size": (3, LARGE[file], LARGE[file])}
        yield f"timm/{family}", name, partial(_timm, name, options)


def _timm(name: str, options: dict[str, Any]) -> VisionModel:
    return seewhy.load_model(f"timm/{name}", pretrained=False, device="cpu", **options)


def torchvision_families() -> Iterator[Family]:
    """Yield the smallest classifier of each file of torchvision."""
    from torchvision import models

    smallest: dict[str, tuple[int, str]] = {}
    for name in models.list_models(module=models):
        file = models.get_model_builder(name).__module__.rsplit(".", 1)[-1]
        count = models.get_model_weights(name)["DEFAULT"].meta["num_params"]
        smallest[file] = min(smallest.get(file, (count, name)), (count, name))
    for file, (_, name) in smallest.items():
        make = partial(seewhy.load_model, f"torchvision/{name}", pretrained=False, device="cpu")
        yield f"torchvision/{file}", name, make


# ── transformers ──────────────────────────────────────────────────────────────────────────────────────────────────────
_FEWER = {"num_hidden_layers": 3, "encoder_layers": 3, "decoder_layers": 2, "num_layers": 3}
_NARROW = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 384}
_LATENTS = {"num_latents": 16, "d_latents": 64, "num_self_attends_per_block": 2, "num_cross_attention_heads": 1}
_OPTIONS: dict[str, dict[str, Any]] = {
    "efficientnet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224},
    "AlignVisionModel": {"image_size": 224},
    "XCLIPVisionModel": {"num_frames": 1},
    "PerceiverForImageClassificationLearned": {**_LATENTS, "d_model": 512},
    "PerceiverForImageClassificationFourier": {**_LATENTS, "d_model": 261, "image_size": 56},
    "PerceiverForImageClassificationConvProcessing": {**_LATENTS, "d_model": 322, "image_size": 224},
}
"""By class or kind of model, what its configuration must be told to be small and to fit together."""
_LARGE_IMAGE = 400
"""Sides of images from which on a transformer gets 14 × 14 patches instead."""
LARGEST = 400_000_000
"""The most parameters of a model that the census makes."""
_SMALLER_TEXT = {"num_hidden_layers": 1}


def hf_classifiers() -> Iterator[Family]:
    """Yield each `*ForImageClassification` of transformers, with three layers where that is one number."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSES

    for kind, classes in CLASSES.items():
        for name in (classes,) if isinstance(classes, str) else classes:
            cls = getattr(transformers, name)
            yield f"transformers/{kind}:{name}", name, partial(_hf, cls)


def hf_towers() -> Iterator[Family]:
    """Yield each vision tower that transformers exports."""
    import transformers

    for name in sorted(dir(transformers)):
        if re.search(r"Vision(Model|ModelWithProjection|Transformer|Encoder)$", name):
            cls = getattr(transformers, name)
            if isinstance(cls, type) and issubclass(cls, nn.Module) and _takes_images_alone(cls):
                yield f"transformers/towers:{name}", name, partial(_hf, cls)


def _takes_images_alone(cls: Any) -> bool:
    """Tell whether a tower needs nothing but images (the towers of language models often want the sizes of patches)."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return cls.main_input_name == "pixel_values" and needed in ([], ["pixel_values"])


def _hf(cls: Any) -> VisionModel:
    kind = cls.config_class.model_type
    config = cls.config_class(**_OPTIONS.get(cls.__name__, _OPTIONS.get(kind, {})))
    for part in (config, *(getattr(config, f"{name}_config", None) for name in ("vision", "backbone", "qformer"))):
        _make_small(part)
    text = getattr(config, "text_config", None)
    for name, few in _SMALLER_TEXT.items():
        if text is not None and isinstance(getattr(text, name, None), int):
            setattr(text, name, few)
    _make_fit(config)
    with torch.device("meta"):
        count = sum(p.numel() for p in cls(config).parameters())
    if count > LARGEST:
        raise ImportError(f"{count / 1e9:.1f} billion parameters: too large for the census")
    return seewhy.wrap(cls(config).eval())


def _make_small(config: Any) -> None:
    """Give a transformer few and narrow layers, and images of few patches."""
    is_transformer = isinstance(getattr(config, "num_attention_heads", None), int)
    for name, few in _FEWER.items():
        value = getattr(config, name, None)
        if is_transformer and isinstance(value, int) and value > few:
            setattr(config, name, few)
    if all(isinstance(getattr(config, name, None), int) for name in _NARROW):
        for name, few in _NARROW.items():
            setattr(config, name, few)
    size = getattr(config, "image_size", None)
    patch = getattr(config, "patch_size", None)
    if isinstance(size, int) and isinstance(patch, int) and size > _LARGE_IMAGE:
        config.image_size = 14 * patch
    elif isinstance(size, list | tuple) and max(size) > _LARGE_IMAGE:
        side = 14 * max(patch) if isinstance(patch, list | tuple) else 256
        config.image_size = type(size)((side, side))


def _make_fit(config: Any) -> None:
    """Make parts agree that a configuration leaves apart, or has wrong from the start."""
    if hasattr(config, "qformer_config"):
        config.qformer_config.encoder_hidden_size = config.vision_config.hidden_size
    if config.model_type == "edgetam_vision_model":
        from transformers import TimmWrapperConfig

        options = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        config.backbone_config = TimmWrapperConfig(architecture="repvit_m1", model_args=options)


# ── open_clip ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def open_clip_families() -> Iterator[Family]:
    """Yield the image tower of one configuration of each kind: the options of the tower, sizes apart."""
    import open_clip

    sizes = {"width", "layers", "image_size", "patch_size", "head_width", "mlp_ratio", "attn_pooler_heads", "n_queries"}
    seen: dict[str, str] = {}
    for name in sorted(open_clip.list_models(), key=_open_clip_size):
        vision = open_clip.get_model_config(name)["vision_cfg"]
        kind = "resnet" if isinstance(vision.get("layers"), list) else "vit"
        if vision.get("timm_model_name"):
            kind = "timm " + re.split(r"[_.]", vision["timm_model_name"])[0]
        options = {k: v for k, v in vision.items() if k not in sizes and not k.startswith("timm")}
        seen.setdefault(" ".join([kind, *sorted(f"{k}={v}" for k, v in options.items())]), name)
    for kind, name in seen.items():
        yield f"open_clip/{kind}", name, partial(_open_clip, name)


def _open_clip_size(name: str) -> int:
    import open_clip

    vision = open_clip.get_model_config(name)["vision_cfg"]
    order = ("tiny", "small", "S0", "base", "medium", "large", "huge", "xlarge")
    timm_name = vision.get("timm_model_name") or ""
    if timm_name:
        return next((i for i, word in enumerate(order) if word in timm_name), len(order))
    layers = vision["layers"]
    return vision["width"] * (sum(layers) if isinstance(layers, list) else layers) * vision.get("image_size", 224)


def _open_clip(name: str) -> VisionModel:
    import open_clip
    from open_clip.model import _build_vision_tower

    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"]
    if isinstance(vision.get("layers"), int):
        vision.update(layers=min(3, vision["layers"]), width=192, head_width=64)
    vision["timm_model_pretrained"] = False
    return seewhy.wrap(
        _build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False)).eval(), name=name
    )
