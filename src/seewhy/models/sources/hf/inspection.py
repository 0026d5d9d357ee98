"""Structure of the vision models of transformers: ViT, DeiT, DINOv2 and v3, CLIP, SigLIP, ResNet, ConvNeXt, Swin.

A model is recognized by the `model_type` of its configuration. What it holds is then read from its modules and
parameters, because the names of modules differ between versions of transformers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from seewhy.core.preprocess import CLIP, IMAGENET, Preprocess
from seewhy.errors import LayoutError, ModelError
from seewhy.models.structure import Block, Layer, Structure
from seewhy.targets import Output

_HALF = Preprocess(resize=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclass(frozen=True)
class ModelType:
    """Kind, example and preprocessing of a `model_type` of transformers.

    Attributes:
        kind: How it is built: `vit`, `conv` or `swin`.
        example: A checkpoint of the hub.
        preprocess: Its preprocessing where a checkpoint has none.
    """

    kind: str
    example: str = ""
    preprocess: Preprocess = IMAGENET


TYPES = {
    "vit": ModelType("vit", "google/vit-base-patch16-224", _HALF),
    "vit_msn": ModelType("vit", "facebook/vit-msn-small"),
    "deit": ModelType("vit", "facebook/deit-base-distilled-patch16-224"),
    "dinov2": ModelType("vit", "facebook/dinov2-small"),
    "dinov2_with_registers": ModelType("vit", "facebook/dinov2-with-registers-small"),
    "dinov3_vit": ModelType("vit", "facebook/dinov3-vits16-pretrain-lvd1689m"),
    "clip": ModelType("vit", "openai/clip-vit-base-patch32", CLIP),
    "clip_vision_model": ModelType("vit", "", CLIP),
    "siglip": ModelType("vit", "google/siglip-base-patch16-224", _HALF),
    "siglip_vision_model": ModelType("vit", "", _HALF),
    "resnet": ModelType("conv", "microsoft/resnet-50"),
    "convnext": ModelType("conv", "facebook/convnext-tiny-224"),
    "convnextv2": ModelType("conv", "facebook/convnextv2-tiny-1k-224"),
    "swin": ModelType("swin", "microsoft/swin-tiny-patch4-window7-224"),
    "swinv2": ModelType("swin", "microsoft/swinv2-tiny-patch4-window8-256"),
}
_CLASSES = re.compile(r"(?<!Text)(Model|ModelWithProjection|ForImageClassification(WithTeacher)?)$")
_HEADS = ("classifier", "cls_classifier", "distillation_classifier")


def recognizes(module: nn.Module) -> bool:
    """Tell whether it is a vision model of transformers, or one of images and texts (see `tower`)."""
    if not type(module).__module__.startswith("transformers.") or not hasattr(module, "config"):
        return False
    takes_images = getattr(module, "main_input_name", "") == "pixel_values" or "ForImage" in type(module).__name__
    return takes_images or hasattr(module, "vision_model") or _is_known(module)


def _is_known(module: Any) -> bool:
    return _CLASSES.search(type(module).__name__) is not None and module.config.model_type in TYPES


def config_of(module: Any) -> dict[str, Any]:
    """Return the options of the image side's configuration."""
    config: Any = module.config
    return vars(getattr(config, "vision_config", None) or config)


def vision_option(config: Any, name: str) -> Any:
    """Return an option of a configuration; where it has none, that of its image side, or of what that is built on."""
    for part in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        value = getattr(part, name, None)
        if value is not None:
            return value
    return None


def structure(module: nn.Module) -> Structure:
    """Tell where a vision model of transformers keeps what.

    Raises:
        LayoutError: A model of images and texts (take its `tower`), or one whose modules are not as expected.
    """
    if hasattr(module, "text_model"):
        raise LayoutError(
            f"{type(module).__name__} takes images and texts; explain its image side: "
            "seewhy.models.sources.hf.tower(module)"
        )
    if {"input_ids", "pixel_values"} <= set(inspect.signature(type(module).forward).parameters):
        raise ModelError(
            f"{type(module).__name__} reads a text together with the image; wrap a module of your own that takes the "
            "image alone and passes the text on to it"
        )
    config: Any = module.config
    if not _is_known(module):
        raise LayoutError(f"{type(module).__name__} is not among the models of transformers that seewhy knows by heart")
    path, trunk = _trunk(module)
    heads = heads_of(module)
    common: dict[str, Any] = {
        "source": "hf",
        "head": heads[0] if heads else None,
        "note": _note(module, heads),
        "multi_label": config.problem_type == "multi_label_classification",
        "regression": bool(heads) and _is_regression(config),
    }
    kind = TYPES[config.model_type].kind
    if kind == "conv":
        return _conv(path, trunk, common)
    common["call"] = _call(module, trunk)
    if kind == "swin":
        return _swin(path, trunk, common)
    return _vit(path, trunk, common, _averages(module, heads), _reads_both(module, heads))


def heads_of(module: nn.Module) -> list[str]:
    """Return the names of linear classifiers (DeiT with a teacher has two), without those that were switched off."""
    heads = [name for name in _HEADS if hasattr(module, name)]
    return [name for name in heads if any(isinstance(m, nn.Linear) for m in module.get_submodule(name).modules())]


def pair(size: Any) -> tuple[int, int]:
    """Return (rows, cols) of a size in a configuration."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# ── the three kinds ───────────────────────────────────────────────────────────────────────────────────────────────────


def _conv(path: str, trunk: Any, common: dict[str, Any]) -> Structure:
    stages = tuple(Layer(f"{path}encoder.stages.{i}", "nchw") for i in range(len(trunk.encoder.stages)))
    return Structure(stages=stages, cam_layer=stages[-1], read=_read, **common)


def _swin(path: str, trunk: Any, common: dict[str, Any]) -> Structure:
    rows, cols = pair(trunk.config.patch_size)
    stages = tuple(
        # the last block of each stage, because the stage returns what it has already merged for the next one
        Layer(f"{path}encoder.layers.{i}.blocks.{len(stage.blocks) - 1}", "tokens", (rows << i, cols << i), prefix=0)
        for i, stage in enumerate(trunk.encoder.layers)
    )
    return Structure(stages=stages, cam_layer=stages[-1], read=_read, **common)


def _vit(path: str, trunk: Any, common: dict[str, Any], averages: bool, reads_both: bool) -> Structure:
    blocks = tuple(_blocks(path, trunk))
    if not blocks:
        raise LayoutError(f"{type(trunk).__name__} has no list of blocks; use seewhy.wrap(module, ...) with layers")
    has = partial(hasattr, trunk.embeddings)
    has_class_token = has("cls_token") or has("class_embedding")
    registers = trunk.embeddings.register_tokens.shape[1] if has("register_tokens") else 0
    return Structure(
        stages=tuple(Layer(block.name, "tokens") for block in blocks),
        cam_layer=Layer(blocks[-1].norm1, "tokens"),
        blocks=blocks,
        prefix_tokens=has_class_token + has("distillation_token") + registers,
        class_token=has_class_token and not averages,
        reads_patches=reads_both,
        patch_size=pair(trunk.config.patch_size),
        pads=False,
        read=partial(_read, class_token=has_class_token),
        **common,
    )


def _trunk(module: nn.Module) -> tuple[str, nn.Module]:
    """Return the part below the heads, with its dotted prefix: the outermost module that embeds the image."""
    for name, candidate in module.named_modules():
        if {"embeddings", "embedder"} & {child for child, _ in candidate.named_children()}:
            return f"{name}." if name else "", candidate
    raise LayoutError(f"{type(module).__name__} has no image embeddings; use seewhy.wrap(module, ...) with layers")


def _blocks(path: str, trunk: nn.Module) -> Iterator[Block]:
    lists = ((name, module) for name, module in trunk.named_modules() if isinstance(module, nn.ModuleList))
    name, layers = next(lists, ("", nn.ModuleList()))
    for i, block in enumerate(layers):
        norm1 = next((n for n in ("layernorm_before", "layer_norm1", "norm1") if hasattr(block, n)), None)
        attention = next((n for n in ("attention", "self_attn") if hasattr(block, n)), None)
        if norm1 is None or attention is None:
            raise LayoutError(f"{type(block).__name__} has no norm before an attention; use seewhy.wrap(module, ...)")
        where = f"{path}{name}.{i}"
        yield Block(where, f"{where}.{norm1}", f"{where}.{attention}")


# ── how it is called and read ─────────────────────────────────────────────────────────────────────────────────────────


def _call(module: nn.Module, trunk: Any) -> dict[str, Any]:
    """Ask for interpolated positions, where the class can: at its own input size the library takes them as they are."""
    rows, cols = pair(trunk.config.image_size)
    outer, inner = (inspect.signature(type(m).forward).parameters for m in (module, trunk))
    passed = "interpolate_pos_encoding" in outer or any(p.kind is p.VAR_KEYWORD for p in outer.values())
    # the library interpolates from a square grid of positions only
    possible = passed and "interpolate_pos_encoding" in inner and rows == cols
    return {"interpolate_pos_encoding": True} if possible else {}


def _is_regression(config: Any) -> bool:
    """Tell whether the library trains this head by squared errors: where it says so, or has a single output."""
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


def _averages(module: Any, heads: list[str]) -> bool:
    """Tell whether the head reads the mean of the patch tokens and leaves a class token aside."""
    return bool(heads) and module.config.model_type in ("clip", "siglip")


def _reads_both(module: Any, heads: list[str]) -> bool:
    """Tell whether the head reads the class token and the mean of the patch tokens."""
    return bool(heads) and module.config.model_type.startswith("dinov2")


def _note(module: nn.Module, heads: list[str]) -> str:
    if len(heads) > 1:
        return "the logits are the mean of two heads (class and distillation token); the embedding is the class token's"
    if _reads_both(module, heads):
        return "the embedding is what the head reads: the class token, then the mean of the patch tokens"
    return ""


def _read(raw: Any, head_input: Tensor | None, *, class_token: bool = False) -> Output:
    """Read a `ModelOutput`; the embedding is the head's input, else the projected, the pooled, or the class token."""
    if not isinstance(raw, Mapping):
        raise LayoutError(f"the model returns {type(raw).__name__}; set module.config.return_dict = True")
    if raw.get("logits") is not None:
        logits = raw["logits"]
        return Output(embedding=logits.flatten(1)) if head_input is None else Output(logits, head_input)
    for key in ("image_embeds", "pooler_output"):
        if raw.get(key) is not None:
            return Output(embedding=raw[key].flatten(1))
    tokens = raw["last_hidden_state"]
    return Output(embedding=tokens[:, 0] if class_token else tokens.mean(1))
