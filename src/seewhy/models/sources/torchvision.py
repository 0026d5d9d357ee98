"""Models of torchvision: image classifiers, and what is left of them when the classifier is taken away."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from seewhy.core.io import first_line
from seewhy.core.preprocess import Preprocess
from seewhy.errors import LayoutError, OptionError, UnknownNameError, WeightsError, require
from seewhy.models.adapter import VisionModel
from seewhy.models.dense import read_detections
from seewhy.models.infer.find import known_or_found
from seewhy.models.probe import checked
from seewhy.models.structure import Block, Layer, Structure
from seewhy.targets import Output

PREFIX = "torchvision/"
PACKAGE = "torchvision"
DISTRIBUTIONS = ("torchvision",)
EXTRA = "torchvision"
WRAP = "say where its features are: seewhy.wrap(module, layers=…)"
OTHER_TASKS = ("segmentation", "video", "optical_flow", "quantization")
DETECTORS = Preprocess(
    resize=None,
    crop="none",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    origin="torchvision's detectors, which resize and normalize themselves",
)
TRUNKS = ("features", "layers", "trunk_output", "blocks")  # containers whose children follow one another
HEADS = ("heads", "classifier", "head", "fc")


def load(name: str, *, pretrained: bool = True, weights: Any = "DEFAULT", **options: Any) -> VisionModel:
    """Load a torchvision classifier by name, with its own preprocessing and class names.

    Args:
        name: As in `torchvision.models.list_models`.
        pretrained: Whether to load weights; without, preprocessing and names are those of the weights all the same
            (for weights that come from a file), if the number of classes is.
        weights: Which ones, `"IMAGENET1K_V2"`.
        **options: For the model's builder, as `num_classes=10`.

    Raises:
        MissingExtraError: torchvision is not installed.
        UnknownNameError: There is no such model, or there are no such weights for it.
        WeightsError: The weights cannot be fetched, or do not fit.
        OptionError: The model does not take an option.
    """
    models = require("torchvision", EXTRA).models
    if name in models.list_models(module=models.detection):
        return _load_detector(models, name, pretrained, weights, options)
    entry = _weights(models, name, weights)
    if weights == "DEFAULT" and "image_size" in options:
        # SWAG's weights are made for a larger image, with preprocessing of their own
        sizes = {each: each.transforms().crop_size[0] for each in models.get_model_weights(name)}
        entry = next((each for each, side in sizes.items() if side == options["image_size"]), entry)
    if pretrained:
        _fetch(name, entry)
    try:
        module = models.get_model(name, weights=entry if pretrained else None, **options).eval()
    except (TypeError, ValueError, AssertionError) as error:
        raise OptionError(
            f"torchvision cannot create {name!r} with {options} ({error}); leave one of them out"
        ) from error
    recipe = _preprocess(entry, module)
    found = known_or_found(structure, module, (3, *recipe.size))
    model = checked(VisionModel(module, found, name=f"torchvision/{name}", preprocess=recipe))
    categories = entry.meta["categories"]
    if model.classes == len(categories):
        model.class_names = tuple(categories)
    return model


def _load_detector(models: Any, name: str, pretrained: bool, weights: Any, options: dict[str, Any]) -> VisionModel:
    entry = _weights(models, name, weights)
    if pretrained:
        _fetch(name, entry)
    known = {"weights": entry} if pretrained else {"weights": None, "weights_backbone": None}
    try:
        module = models.get_model(name, **{**known, **options}).eval()
    except (TypeError, ValueError, AssertionError) as error:
        raise OptionError(
            f"torchvision cannot create {name!r} with {options} ({error}); leave one of them out"
        ) from error
    found = structure(module)
    categories = entry.meta["categories"] if "num_classes" not in options else None
    return VisionModel(module, found, name=f"torchvision/{name}", preprocess=preprocess(module), class_names=categories)


def names(pattern: str = "*") -> list[str]:
    """Return the image classifiers and object detectors of torchvision whose names match a shell pattern.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    models = require("torchvision", EXTRA).models
    return fnmatch.filter(_known(models), pattern)


def _known(models: Any) -> list[str]:
    return [*models.list_models(module=models), *models.list_models(module=models.detection)]


def _weights(models: Any, name: str, wanted: Any) -> Any:
    if name not in _known(models):
        raise UnknownNameError("torchvision model", name, names(), "`seewhy models 'torchvision/*'` lists them")
    entries = models.get_model_weights(name)
    if isinstance(wanted, entries):
        return wanted
    key = str(wanted).rpartition(".")[2]
    if key not in entries.__members__:
        raise UnknownNameError(f"weights for torchvision's {name}", str(wanted), entries.__members__)
    return entries[key]


def _fetch(name: str, entry: Any) -> None:
    """Put the weights into torch's cache and read them safely once: the builder itself unpickles whatever is there."""
    try:
        entry.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except OSError as error:
        raise WeightsError(
            f"the weights of torchvision/{name} cannot be fetched ({error}); put them in a file and use "
            f"load_model('weights.pth', architecture='torchvision/{name}'), or pretrained=False"
        ) from error
    except Exception as error:  # hash mismatch, unsafe or broken pickle
        raise WeightsError(
            f"the weights of torchvision/{name} cannot be read ({first_line(error).rstrip('.')}); delete {entry.url} "
            "from torch's cache and try again"
        ) from error


def preprocess(module: nn.Module) -> Preprocess:
    """Return the preprocessing of the weights for this architecture: sides differ (EfficientNet-B4: 380).

    The architecture is the one of the same file with as many parameters, classifiers apart.
    """
    if _tasks(module) & {"detection"}:
        return DETECTORS
    models = require("torchvision", EXTRA).models
    file = next(cls.__module__ for cls in type(module).__mro__ if cls.__module__.startswith("torchvision."))
    builders = [n for n in models.list_models(module=models) if models.get_model_builder(n).__module__ == file]
    entries = [models.get_model_weights(name)["DEFAULT"] for name in builders]
    if len(entries) > 1:
        count = _parameters_for_imagenet(module)
        entries = [entry for entry in entries if entry.meta["num_params"] == count]
    if entries:
        return _preprocess(entries[0], module)
    side = getattr(module, "image_size", None) or 224
    return Preprocess().with_size(side, side)


def _parameters_for_imagenet(module: nn.Module) -> int:
    """Count the parameters that the module would have with 1000 classes."""
    last = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    per_class = sum(p[0].numel() for m in last for p in m.parameters(recurse=False))
    classes = sum(len(m.weight) for m in last)
    return sum(p.numel() for p in module.parameters()) + (1000 - classes) * per_class


def _preprocess(entry: Any, module: Any) -> Preprocess:
    recipe = entry.transforms()
    side = recipe.crop_size[0]
    preprocess = Preprocess(
        size=(side, side),
        resize=recipe.resize_size[0],
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
        origin=f"torchvision's weights {entry.name}",
    )
    fixed_side = getattr(module, "image_size", side)  # a ViT takes one size only
    return preprocess if fixed_side == side else preprocess.with_size(fixed_side, fixed_side)


# ── files of weights ──────────────────────────────────────────────────────────────────────────────────────────────────
def options_for(module: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the builder must be told so that the architecture takes these weights: a ViT's image size."""
    table = state.get("encoder.pos_embedding")
    if table is None or not hasattr(module, "image_size") or table.ndim != 3:
        return {}
    side = math.isqrt(table.shape[1] - 1)
    if side**2 + 1 != table.shape[1] or side * module.patch_size == module.image_size:
        return {}
    return {"image_size": side * module.patch_size}


def options_for_size(module: Any, rows: int, cols: int) -> dict[str, Any]:
    """Return what makes a ViT take another size than the one that it has a table of positions for."""
    return {"image_size": rows} if getattr(module, "image_size", rows) != rows and rows == cols else {}


def converted(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the weights as they are: torchvision's have their names from the start."""
    return state


# ── where it keeps what ───────────────────────────────────────────────────────────────────────────────────────────────
def recognizes(module: nn.Module) -> bool:
    """Tell whether the module's class is torchvision's, or made from one."""
    return any(cls.__module__.split(".")[0] == "torchvision" for cls in type(module).__mro__)


def structure(module: nn.Module) -> Structure:
    """Tell where a torchvision classifier or detector keeps what.

    The embedding is what enters the last linear layer. A stage ends where the next module makes the grid coarser.

    Raises:
        LayoutError: The model is none of those whose layout is known.
    """
    kind = type(module).__name__
    tasks = _tasks(module)
    if "detection" in tasks and hasattr(module, "backbone"):
        return _detector(module)
    if tasks & set(OTHER_TASKS):
        raise LayoutError(f"torchvision's {kind} is not an image classifier; {WRAP}")
    if hasattr(module, "encoder") and hasattr(module, "class_token"):
        return _vit(module)
    trunk = list(_trunk(module))
    if not any(_coarser(part) for _, part in trunk) or not any(hasattr(module, name) for name in HEADS):
        raise LayoutError(f"torchvision's {kind} has no features that seewhy knows of; {WRAP}")
    layout = "nhwc" if hasattr(module, "permute") else "nchw"  # Swin turns its channels to the front at the end
    ends = [i for i in range(len(trunk)) if i + 1 == len(trunk) or _coarser(trunk[i + 1][1])]
    stages = tuple(Layer(trunk[i][0], layout) for i in ends)
    cam = Layer("norm", layout) if layout == "nhwc" else stages[-1]
    return Structure(source="torchvision", stages=stages, cam_layer=cam, **_head(module))


def _tasks(module: nn.Module) -> set[str]:
    """Return the packages of torchvision's models that a module's classes are in, such as `detection`."""
    return {part for cls in type(module).__mro__ for part in cls.__module__.split(".")[2:3]}


def _detector(module: Any) -> Structure:
    """Return the stages of a detector's backbone; several of them lead to the boxes, so none stands for all.

    Raises:
        LayoutError: Its backbone has no stages in a row.
    """
    trunk = next((name for name in ("body", "features") if hasattr(module.backbone, name)), None)
    if trunk is None:
        raise LayoutError(f"torchvision's {type(module).__name__} has a backbone that seewhy does not know; {WRAP}")
    parts = list(getattr(module.backbone, trunk).named_children())
    ends = [i for i in range(len(parts)) if i + 1 == len(parts) or _coarser(parts[i + 1][1])]
    stages = tuple(Layer(f"backbone.{trunk}.{parts[i][0]}", "nchw") for i in ends)
    return Structure(
        source="torchvision",
        stages=stages,
        ask=f"boxes are found in several layers of its backbone, so none stands for all; say layer={stages[-1].name!r}",
        read=read_detections,
        has_logits=False,
        has_embedding=False,
        boxes_in="pixels",
    )


def _vit(module: Any) -> Structure:
    names = [f"encoder.layers.{name}" for name, _ in module.encoder.layers.named_children()]
    return Structure(
        source="torchvision",
        stages=tuple(Layer(name, "tokens") for name in names),
        cam_layer=Layer(f"{names[-1]}.ln_1", "tokens"),
        blocks=tuple(Block(name, f"{name}.ln_1", f"{name}.self_attention") for name in names),
        prefix_tokens=1,
        class_token=True,
        patch_size=(module.patch_size, module.patch_size),
        **_head(module),
    )


def _trunk(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that run one after the other, up to the last that lies on a grid."""
    for name, part in module.named_children():
        if name in TRUNKS:
            yield from ((f"{name}.{inner}", child) for inner, child in part.named_children())
        elif name in (*HEADS, "avgpool", "norm"):
            return
        elif not name.lower().startswith("aux"):  # Inception's training-time classifiers hang beside the trunk
            yield name, part


def _coarser(part: nn.Module) -> bool:
    """Tell whether the module's output has fewer cells than its input."""
    if hasattr(part, "reduction"):  # Swin's patch merging
        return True
    for inner in part.modules():
        stride: Any = getattr(inner, "stride", 1)
        if isinstance(stride, int | tuple) and max(stride if isinstance(stride, tuple) else (stride,)) > 1:
            return True
    return False


def _is_linear(part: nn.Module) -> bool:
    """Tell whether a module is a linear layer, a quantized one too."""
    return isinstance(part, nn.Linear) or (hasattr(part, "in_features") and hasattr(part, "out_features"))


def _head(module: Any) -> dict[str, Any]:
    """Return the last linear layer of the classifier as parts of a `Structure`; none, if it was taken away."""
    name = next(name for name in HEADS if hasattr(module, name))
    head = getattr(module, name)
    linear = [inner for inner, part in head.named_modules() if _is_linear(part)]
    if linear:
        return {"head": ".".join(filter(None, (name, linear[-1])))}
    if type(module).__name__ == "SqueezeNet" and len(head) > 1:
        return {"head": name, "classes": module.num_classes, "read": _read_squeezenet}
    return {}


def _read_squeezenet(raw: Tensor, embedding: Tensor | None) -> Output:
    """Read SqueezeNet, which classifies each cell and averages: its embedding is the average of what is classified."""
    if embedding is None:
        return Output(logits=raw)
    return Output(logits=raw, embedding=embedding.unflatten(1, (512, -1)).mean(-1))
