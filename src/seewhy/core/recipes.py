"""How timm, transformers and people write down a preprocessing, as attributes of `Preprocess`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from seewhy.errors import OptionError

if TYPE_CHECKING:
    from seewhy.core.preprocess import Preprocess

CROPS = ("center", "squash", "none", "pad", "border")
FILTERS = {filter.name.lower(): filter for filter in Image.Resampling}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def timm_recipe(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Read a timm model's `pretrained_cfg`, or the arguments of its training program.

    Raises:
        OptionError: The crop mode is unknown.
    """
    _, rows, cols = cfg.get("input_size") or (3, 224, 224)
    mode = cfg.get("crop_mode") or "center"
    if mode not in ("center", "squash", "border"):
        raise OptionError(f"timm's crop mode {mode!r} is not supported; pass preprocess=Preprocess(...)")
    resize = frame((rows, cols), cfg.get("crop_pct") or 0.875)
    return {
        "size": (rows, cols),
        "resize": (resize, resize) if isinstance(resize, int) and mode != "center" else resize,
        "mean": values(cfg.get("mean") or IMAGENET_MEAN),
        "std": values(cfg.get("std") or IMAGENET_STD),
        "interpolation": cfg.get("interpolation") or "bilinear",
        "crop": mode,
    }


def hf_recipe(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Read the contents of a `preprocessor_config.json`.

    Raises:
        OptionError: It resizes in a way that is not supported.
    """
    return {**_hf_geometry(cfg), **_hf_values(cfg)}


def frame(size: tuple[int, int], share: float | str) -> int | tuple[int, int]:
    """Return the resize whose center crop of `size` is that share of it: a short side if the crop is square.

    Raises:
        OptionError: It is no share.
    """
    if isinstance(share, str) or not 0 < share <= 1:
        raise OptionError(f"crop {share!r} is not accepted; pass center, squash, none, or a share such as 0.875")
    rows, cols = math.floor(size[0] / share), math.floor(size[1] / share)
    return rows if rows == cols else (rows, cols)


def values(given: float | Iterable[float]) -> tuple[float, ...]:
    """Return one value for each channel; a single number is for all three."""
    return (given,) * 3 if isinstance(given, int | float) else tuple(given)


def _hf_values(cfg: Mapping[str, Any]) -> dict[str, Any]:
    normalizes, rescales = cfg.get("do_normalize", True), cfg.get("do_rescale", True)
    return {
        "mean": values(cfg.get("image_mean") or 0.5) if normalizes else (0.0, 0.0, 0.0),
        "std": values(cfg.get("image_std") or 0.5) if normalizes else (1.0, 1.0, 1.0),
        "rescale": (cfg.get("rescale_factor") or 1 / 255) if rescales else 1.0,
        "interpolation": Image.Resampling(int(cfg.get("resample", 2))).name.lower(),
        "offset": "floor",
    }


def _hf_geometry(cfg: Mapping[str, Any]) -> dict[str, Any]:
    size, crop = _hf_size(cfg), _hf_crop(cfg)
    if not cfg.get("do_resize", True):
        if crop:
            raise OptionError("a processor that crops but does not resize is not supported; pass your own preprocess=")
        return {"size": size if isinstance(size, tuple) else (size, size), "resize": None, "crop": "none"}
    if cfg.get("crop_pct") is not None:  # ConvNeXT's and ResNet's processor: its own margin, none from 384 on
        side = size if isinstance(size, int) else min(size)
        resize = int(side / cfg["crop_pct"]) if side < 384 else None
        return {"size": (side, side), "resize": resize, "crop": "center" if resize else "squash"}
    if isinstance(size, int):
        return {"size": crop or (size, size), "resize": size, "crop": "center" if crop else "none"}
    return {"size": crop or size, "resize": size if crop else None, "crop": "squash"}


def _hf_size(cfg: Mapping[str, Any]) -> int | tuple[int, int]:
    """Return the short side, or (rows, cols) to stretch to."""
    size = cfg.get("size") or 224
    if isinstance(size, int):  # old files: a bare number is the short side only where a crop follows
        return size if cfg.get("do_center_crop") else (size, size)
    if isinstance(size, list | tuple) and len(size) == 2:
        return size[0], size[1]
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    if isinstance(size, Mapping) and size.get("shortest_edge") and not size.get("longest_edge"):
        return int(size["shortest_edge"])
    raise OptionError(f"a processor of size {size} is not supported; pass preprocess=Preprocess(...)")


def _hf_crop(cfg: Mapping[str, Any]) -> tuple[int, int] | None:
    crop = cfg.get("crop_size")
    if not cfg.get("do_center_crop", False):
        return None
    if isinstance(crop, Mapping):
        return crop["height"], crop["width"]
    side = crop or _hf_size(cfg)
    return side if isinstance(side, tuple) else (side, side)


# --- what a person sees, says and gets wrong ---------------------------------------------------------------


def described(recipe: Preprocess) -> str:
    """Return everything that happens to an image, in one line."""
    rows, cols = recipe.size
    if recipe.crop == "none" and recipe.resize is None:
        geometry = "no resize, no crop"
    elif recipe.crop == "pad" and recipe.resize is None:
        geometry = f"no resize, pad to multiples of {rows}×{cols}"
    elif recipe.resize is None or recipe.crop == "squash":
        geometry = f"stretch to {_by(recipe.resize or recipe.size)}, {recipe.interpolation}"
    elif recipe.crop == "border":
        geometry = (
            f"fit into {_by(recipe.resize)}, {recipe.interpolation}, fill up to {rows}×{cols} with the mean color"
        )
    else:
        frame = f"short side to {recipe.resize}" if isinstance(recipe.resize, int) else f"cover {_by(recipe.resize)}"
        geometry = f"resize {frame}, {recipe.interpolation}"
    cut = f", center crop {rows}×{cols}" if recipe.crop == "center" and recipe.resize is not None else ""
    cut = (
        f", center crop {rows}×{cols}" if recipe.crop == "squash" and recipe.resize not in (None, recipe.size) else cut
    )
    scale = "levels / 255" if abs(recipe.rescale - 1 / 255) < 1e-9 else f"levels × {recipe.rescale:.6g}"
    gray = "gray, " if recipe.channels == 1 else ""
    window = f", black at {recipe.levels[0]:g}, white at {recipe.levels[1]:g}" if recipe.levels else ""
    return f"{gray}{geometry}{cut}{window}, {scale}, mean {_numbers(recipe.mean)}, std {_numbers(recipe.std)}"


def _by(size: int | tuple[int, int]) -> str:
    return f"{size}×{size}" if isinstance(size, int) else f"{size[0]}×{size[1]}"


def _numbers(values: tuple[float, ...]) -> str:
    same = len(set(values)) == 1
    return " ".join(f"{value:.4g}" for value in (values[:1] if same else values)) + (
        " each" * (same and len(values) > 1)
    )


def changed(recipe: Preprocess, changes: dict[str, Any]) -> Preprocess:
    """Return the recipe with changes: see `Preprocess.changed`.

    Raises:
        OptionError: When an attribute is unknown or has a value that it does not accept.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    said = ", ".join(changes)
    size, crop = changes.pop("size", None), changes.pop("crop", None)
    if size is not None:
        rows, cols = (size, size) if isinstance(size, int) else size
        recipe = recipe.with_size(rows, cols)
    for name in ("mean", "std"):
        value = changes.get(name)
        if value is not None:
            values = (value,) * recipe.channels if isinstance(value, int | float) else tuple(value)
            changes[name] = values * recipe.channels if len(values) == 1 else values
    if isinstance(crop, str) and crop in CROPS:
        changes["crop"] = crop
        if crop == "squash":
            changes.setdefault("resize", None)
    elif crop is not None:
        changes["crop"], changes["resize"] = "center", frame(recipe.size, crop)
    unknown = sorted(set(changes) - set(recipe.__dataclass_fields__))
    if unknown:
        raise OptionError(f"preprocess has no option {unknown[0]!r}; use {', '.join(recipe.__dataclass_fields__)}")
    return replace(recipe, **changes, origin=f"{recipe.origin}; {said} as given") if said else recipe


def check(p: Preprocess) -> None:
    """Raise `OptionError` where an attribute has a value that is not accepted."""
    if len(p.size) != 2 or min(p.size) < 1:
        raise OptionError(f"preprocess size {p.size} is not accepted; pass (rows, cols) of at least 1")
    frame = (p.resize,) if isinstance(p.resize, int) else p.resize
    if frame is not None and (len(frame) not in (1, 2) or min(frame) < 1):
        raise OptionError(f"preprocess resize {p.resize} is not accepted; pass the short side, (rows, cols) or None")
    if p.interpolation not in FILTERS:
        raise OptionError(f"unknown interpolation {p.interpolation!r}; choose from {', '.join(FILTERS)}")
    if p.crop not in CROPS:
        raise OptionError(f"unknown crop {p.crop!r}; choose from {', '.join(CROPS)}")
    if p.offset not in ("round", "floor"):
        raise OptionError(f"unknown crop offset {p.offset!r}; choose from round, floor")
    if not p.mean or len(p.mean) != len(p.std) or min(p.std) <= 0 or p.rescale <= 0:
        raise OptionError("preprocess needs a mean and a positive std for each channel, and a positive rescale")
    if p.levels is not None and (len(p.levels) != 2 or p.levels[0] == p.levels[1]):
        raise OptionError(f"preprocess levels {p.levels} are not accepted; pass (black, white), two values that differ")
