"""The image towers of open_clip: its vision transformer, CLIP's modified ResNet, and towers made by timm."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor, nn

from seewhy.core.io import first_line
from seewhy.core.preprocess import CLIP, Preprocess
from seewhy.errors import LayoutError, OptionError, TargetError, UnknownNameError, WeightsError, require
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import untouched
from seewhy.models.structure import Block, Layer, Structure
from seewhy.models.text import TextEncoder, TextSide
from seewhy.targets import Output

PREFIX = "open_clip/"
PACKAGE = "open_clip"
DISTRIBUTIONS = ("open_clip_torch",)
EXTRA = "open_clip"
_TOWERS = ("VisionTransformer", "ModifiedResNet", "TimmModel")
_STORED = ("hf-hub:", "local-dir:")


def names(pattern: str = "*") -> list[str]:
    """Return `MODEL:PRETRAINED` for all weights that open_clip knows and that match a shell pattern.

    Raises:
        MissingExtraError: open_clip is not installed.
    """
    known = require("open_clip", EXTRA).list_pretrained(as_str=True)
    return sorted(fnmatch.filter(known, pattern))


def load(name: str, *, pretrained: bool = True, **options: Any) -> VisionModel:
    """Load the image tower of a model of open_clip; its embedding is the one that texts are compared with.

    Args:
        name: `MODEL:PRETRAINED` (`ViT-B-32:laion2b_s34b_b79k`), where PRETRAINED can also be a checkpoint file;
            `hf-hub:owner/repository` or `local-dir:folder` in open_clip's own format; `MODEL` if not pretrained.
        pretrained: False: random weights.
        **options: For `open_clip.create_model`: `cache_dir`, `force_image_size` ((rows, cols)), `force_quick_gelu` …

    Raises:
        MissingExtraError: open_clip is not installed.
        UnknownNameError: There are no such model or weights; the nearest are suggested.
        OptionError: The name does not say which weights to load.
        WeightsError: The weights are not reachable, or do not fit.
    """
    open_clip = require("open_clip", EXTRA)
    model, weights = (name, None) if name.startswith(_STORED) else _parts(open_clip, name, pretrained)
    if weights and (open_clip.get_pretrained_cfg(model, weights) or {}).get("quick_gelu"):
        options.setdefault("force_quick_gelu", True)  # open_clip only warns, and computes with another activation
    try:
        whole = open_clip.create_model(
            model,
            weights,
            load_weights=pretrained,
            require_pretrained=pretrained,
            weights_only=True,
            pretrained_text=False,
            **options,
        )
    except (OSError, ValueError, RuntimeError, KeyError, UnpicklingError) as error:
        reason = first_line(error).rstrip(".:")
        raise WeightsError(
            f"cannot load {name!r} ({reason}); check the network, or pass MODEL:FILE with a checkpoint "
            "that fits (HF_HOME says where downloads are kept)"
        ) from error
    module = tower(whole).eval()
    side = TextEncoder(lambda: _text_side(whole, _tokenizer(open_clip, model)))
    return VisionModel(module, structure(module), name=name, preprocess=preprocess(module), text=side)


def _parts(open_clip: Any, name: str, pretrained: bool) -> tuple[str, str | None]:
    model, _, weights = name.partition(":")
    model = model.replace("/", "-")  # as OpenAI writes them: ViT-B/32
    if model not in open_clip.list_models():
        raise UnknownNameError("open_clip model", model, open_clip.list_models(), "`seewhy models` lists them")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not pretrained:
        return model, None
    if not weights:
        choices = f"{model}:{tags[0]}" if tags else f"{model}:FILE"
        raise OptionError(f"{name!r} does not say which weights; use {choices!r}, or pretrained=False")
    if weights not in tags and not Path(weights).is_file():
        raise UnknownNameError(f"weights of {model}", weights, tags, "a checkpoint file works too")
    return model, weights


def preprocess(module: nn.Module) -> Preprocess:
    """Return what open_clip keeps with the tower (the weights' own recipe), else CLIP's at the tower's size.

    Raises:
        OptionError: The weights' recipe resizes in a way that is not supported.
    """
    recipe: dict[str, Any] = getattr(module, "preprocess_cfg", None) or {}
    size: Any = recipe.get("size") or getattr(module, "image_size", 224)
    rows, cols = (size, size) if isinstance(size, int) else size
    mode = recipe.get("resize_mode", "shortest")
    if mode == "longest":
        raise OptionError(
            "open_clip's resize mode 'longest' is not supported; pass force_preprocess_cfg={'resize_mode': 'squash'}"
        )
    resize: int | tuple[int, int] | None = rows if rows == cols else (rows, cols)
    if mode == "squash":
        resize = None
    return Preprocess(
        size=(rows, cols),
        resize=resize,
        mean=recipe.get("mean", CLIP.mean),
        std=recipe.get("std", CLIP.std),
        interpolation=recipe.get("interpolation", CLIP.interpolation),
        crop="squash" if mode == "squash" else "center",
    )


# ── what it holds ─────────────────────────────────────────────────────────────────────────────────────────────────────


def recognizes(module: nn.Module) -> bool:
    """Tell whether it is an image tower of open_clip, or a model that has one (see `tower`)."""
    return type(module).__module__.startswith("open_clip.") and type(tower(module)).__name__ in _TOWERS


def tower(module: nn.Module) -> nn.Module:
    """Return the image side of a model of images and texts; any other module as it is."""
    visual: Any = getattr(module, "visual", module)
    return visual


def text(module: nn.Module, tokenizer: Any) -> TextEncoder | None:
    """Return the text side of a model of images and texts; None for any other module.

    Args:
        module: The whole model.
        tokenizer: What `open_clip.get_tokenizer` returns.
    """
    if not hasattr(module, "encode_text"):
        return None
    return TextEncoder(lambda: _text_side(module, tokenizer))


def _tokenizer(open_clip: Any, model: str) -> Any:
    try:
        return open_clip.get_tokenizer(model)
    except (OSError, ImportError, ValueError) as error:  # some are fetched from the hub
        raise WeightsError(
            f"cannot load the tokenizer of {model!r} ({first_line(error)}); check the network"
        ) from error


def _text_side(module: Any, tokenizer: Any) -> TextSide:
    def encode(texts: Sequence[str]) -> Tensor:
        for each in texts:
            # the tokenizer cuts longer texts off without a word; two of its tokens are start and end
            if hasattr(tokenizer, "encode") and len(tokenizer.encode(each)) + 2 > tokenizer.context_length:
                raise TargetError(
                    f"a prompt has more than the {tokenizer.context_length} tokens that this model reads; shorten it"
                )
        tokens = tokenizer(list(texts)).to(next(module.parameters()).device)
        with untouched(module):
            return module.encode_text(tokens)

    return TextSide.of(module, encode)


def structure(module: nn.Module) -> Structure:
    """Tell where an image tower keeps what.

    Raises:
        LayoutError: A whole model (take its `tower`), or a tower that seewhy does not know.
    """
    if hasattr(module, "visual"):
        raise LayoutError(
            f"{type(module).__name__} takes images and texts; explain its image side: "
            "seewhy.models.sources.open_clip.tower(module)"
        )
    kinds: dict[str, Callable[[Any], Structure]] = {
        "VisionTransformer": _vision_transformer,
        "ModifiedResNet": _modified_resnet,
        "TimmModel": _timm_tower,
    }
    if type(module).__name__ not in kinds:
        raise LayoutError(
            f"{type(module).__name__} is not an image tower that seewhy knows; use seewhy.wrap(module, ...)"
        )
    return kinds[type(module).__name__](module)


def _vision_transformer(module: Any) -> Structure:
    if not getattr(module.transformer, "batch_first", True):
        raise LayoutError("this tower keeps (tokens, batch, dim); make it anew with open_clip_torch >= 2.30")
    where = [f"transformer.resblocks.{i}" for i in range(len(module.transformer.resblocks))]
    blocks = tuple(Block(name, f"{name}.ln_1", f"{name}.attn") for name in where)
    return Structure(
        source=EXTRA,
        stages=tuple(Layer(name, "tokens") for name in where),
        cam_layer=Layer(blocks[-1].norm1, "tokens"),
        blocks=blocks,
        prefix_tokens=1,
        # towers that average or attend over the tokens have a class token too, but do not read it alone
        class_token=module.attn_pool is None and module.pool_type == "tok",
        patch_size=tuple(module.patch_size),
        pads=False,
        read=_read,
        note="takes images of its own size only (load with force_image_size=(rows, cols) for another)",
    )


def _modified_resnet(_: nn.Module) -> Structure:
    stages = tuple(Layer(f"layer{i}", "nchw") for i in range(1, 5))
    return Structure(
        source=EXTRA,
        stages=stages,
        cam_layer=stages[-1],
        read=_read,
        note="takes images of its own size only: its attention pooling has a position for each cell",
    )


def _timm_tower(module: Any) -> Structure:
    """Return the structure that timm's source finds for the trunk, with the projection to the embedding on top."""
    from seewhy.models.sources import timm

    inner = timm.structure(module.trunk)
    cam_layer = inner.cam_layer and _inside(inner.cam_layer)
    blocks = tuple(
        Block(f"trunk.{block.name}", f"trunk.{block.norm1}", f"trunk.{block.attention}") for block in inner.blocks
    )
    return replace(
        inner,
        source=EXTRA,
        stages=tuple(map(_inside, inner.stages)),
        cam_layer=cam_layer,
        blocks=blocks,
        head=None,
        has_logits=False,
        classes=None,
        read=_read,
    )


def _inside(layer: Layer) -> Layer:
    return replace(layer, name=f"trunk.{layer.name}")


def _read(raw: Tensor | tuple[Tensor, ...], _: Tensor | None) -> Output:
    """Read the projected features; towers of captioning models give (features, tokens)."""
    return Output(embedding=raw if isinstance(raw, Tensor) else raw[0])
