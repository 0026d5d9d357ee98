"""Any `nn.Module` as a model that can be explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import nn

from seewhy.core.preprocess import Preprocess
from seewhy.core.volumes import VolumePreprocess
from seewhy.errors import LayoutError, ModelError, OptionError
from seewhy.models.adapter import PreprocessFunction, VisionModel, one_input
from seewhy.models.class_names import ClassNames, read_class_names
from seewhy.models.infer.find import find_structure
from seewhy.models.infer.layouts import LayoutHints
from seewhy.models.infer.outputs import OutputHints
from seewhy.models.instrument.hooks import untouched
from seewhy.models.layers import input_channels
from seewhy.models.load import source_of
from seewhy.models.probe import verified
from seewhy.models.probe_volumes import verified_volume
from seewhy.models.sources.base import HasPreprocess, HasText, HasTower, ModelSource
from seewhy.models.structure import Layer, ReadOutput, Structure


def wrap(
    module: nn.Module,
    *,
    preprocess: PreprocessFunction | None = None,
    class_names: ClassNames | None = None,
    name: str = "",
    layers: Sequence[str | Layer] | None = None,
    layout: str | None = None,
    patch_size: int | tuple[int, int] | None = None,
    prefix_tokens: int | None = None,
    head: str | nn.Module | None = None,
    output: str | None = None,
    output_names: Sequence[str] | None = None,
    read: ReadOutput | None = None,
    input_size: int | tuple[int, ...] | None = None,
    multi_label: bool = False,
    tokenizer: Any = None,
    structure: Structure | None = None,
    verify: bool = True,
) -> VisionModel:
    """Make a module of your own explainable.

    Modules of the libraries that `seewhy.list_models` names are known. In any other, layers, tokens and the classifier
    are found by one forward and backward pass of random images; the module is left as it was.

    Args:
        module: An `nn.Module` that takes (B, channels, rows, cols). Wrappers of `torch.compile` and data parallelism
            are taken off.
        preprocess: From a PIL image to (channels, rows, cols); default: what the library tells of its module, else
            ImageNet's (see `seewhy.core.preprocess`).
        class_names: A list, a dict, or a file with them, see `seewhy.models.class_names`. A head with one logit can
            have two: "no" and "yes".
        name: For messages and manifests.
        layers: The feature layers from shallow to deep, by dotted name, instead of those found.
        layout: Of maps whose layout is not evident, `nchw` or `nhwc`; with `layers` also `tokens`.
        patch_size: Pixels per patch, where it cannot be found.
        prefix_tokens: Class and register tokens before the patch tokens, where they cannot be counted.
        head: The module from embedding to logits, where it is not the linear layer that gives the result.
        output: What the module returns, where it cannot be told: "logits", "probabilities", "regression" (quantities,
            which have no probabilities), "embedding", "segmentation" (class scores for each pixel) or "detections".
        output_names: One for each quantity of a regression head.
        read: From what the module returns and the head's input to an `Output`, for dicts, tuples and maps.
        input_size: Of the images that the module takes: side, (rows, cols) or (channels, rows, cols), or of volumes
            (channels, depth, rows, cols); default: what `preprocess` gives. Without a `preprocess` of your own, images
            are fed in this size.
        multi_label: Whether each logit stands for itself (sigmoid).
        tokenizer: Of a model of images and texts: its image side is explained, and texts become targets.
        structure: Everything, known already; nothing is looked for.
        verify: Whether what was found is put to the test: a few patches of an image are changed, and each must show
            in its place (one forward of eight images, once for each architecture).

    Raises:
        LayoutError: Something is ambiguous; the message says which argument settles it.
        ModelError: Not a module that can be opened up, or it does not run on such images.
        OptionError: The class names cannot be read, or do not fit the classes.
    """
    if output_names is not None:
        if class_names is not None or output not in (None, "regression"):
            raise OptionError("output_names are those of quantities; classes have class_names")
        output = "regression"
    module = unwrapped(module)
    source = source_of(module)
    text = source.text(module, tokenizer) if tokenizer is not None and isinstance(source, HasText) else None
    if tokenizer is not None and text is None:
        raise OptionError(f"tokenizer= goes with a model of images and texts, which {type(module).__name__} is not")
    if isinstance(source, HasTower):
        module = source.tower(module)
    if preprocess is None and isinstance(input_size, tuple) and len(input_size) == 4:
        preprocess = _as_they_are(*input_size)
    if preprocess is None:
        preprocess = source.preprocess(module) if isinstance(source, HasPreprocess) else Preprocess()
        if isinstance(preprocess, Preprocess):
            preprocess = preprocess.with_channels(_channels(input_size, module))
            if input_size is not None:
                preprocess = preprocess.with_size(*_size(input_size, preprocess)[1:])
    found = False
    if structure is None:
        layout_hints = LayoutHints(layout, _pair(patch_size), prefix_tokens)
        output_hints = OutputHints(head, output, read, named=class_names is not None, multi_label=multi_label)
        has_hints = layers is not None or layout_hints != LayoutHints() or output not in (None, "regression")
        has_hints = has_hints or head is not None or read is not None
        has_hints = has_hints or isinstance(preprocess, VolumePreprocess)
        structure = None if has_hints or source is None else _known_structure(source, module)
        if structure is None:
            structure = None if has_hints or source else _structure_of_last(module, _size(input_size, preprocess))
        if structure is None:
            structure = find_structure(
                module,
                _size(input_size, preprocess),
                layers=layers,
                layout_hints=layout_hints,
                output_hints=output_hints,
            )
        found = structure.source == "module" or source is None
        structure = replace(
            structure,
            multi_label=multi_label or structure.multi_label,
            regression=output == "regression" or structure.regression,
        )
    names = read_class_names(output_names or class_names)
    model = VisionModel(module, structure, name=name, preprocess=preprocess, class_names=names, text=text)
    if found and verify:
        channels, *sides = _size(input_size, preprocess)
        if structure.volume:
            model.structure = verified_volume(model, sides, channels)
        else:
            model.structure = verified(model, (sides[0], sides[1]), channels)
    if names and model.classes not in (None, len(names)):
        kind = "output" if structure.regression else "class"
        raise OptionError(
            f"{len(names)} {kind} names for {model.classes} {kind}{'es' if kind == 'class' else 's'}; give one for each"
        )
    return model


# ── what can be opened up at all ──────────────────────────────────────────────────────────────────────────────────────
def unwrapped(module: Any) -> nn.Module:
    """Return the plain module inside of `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    Raises:
        ModelError: Hooks do not work in it (TorchScript, compiled in place or in parts), or it is no module.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"wrap takes a torch.nn.Module, not {type(module).__name__}; for names and files use load_model"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("a TorchScript module cannot be opened up; wrap the Python module that it was made from")
    if hasattr(module, "_orig_mod"):
        return unwrapped(module._orig_mod)
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(module.module)
    for name, part in module.named_modules():
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            raise ModelError(
                f"{name or 'the module'} is compiled, and hooks in compiled code do not fire; "
                "wrap the module before compiling it"
            )
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in part.parameters(recurse=False)):
            raise ModelError(f"{name or 'the module'} has no weights yet; run the module once before wrapping it")
    return module


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _channels(input_size: int | tuple[int, ...] | None, module: nn.Module) -> int:
    """Return how many channels the images have, as the user says or the module's first convolution tells."""
    has_channels = isinstance(input_size, tuple) and len(input_size) == 3
    return input_size[0] if has_channels and isinstance(input_size, tuple) else input_channels(module)


def _as_they_are(channels: int, depth: int, rows: int, cols: int) -> Any:
    return VolumePreprocess((depth, rows, cols), mean=(0.0,) * channels, std=(1.0,) * channels)


def _size(input_size: int | tuple[int, ...] | None, preprocess: PreprocessFunction) -> tuple[int, ...]:
    """Return channels, rows and columns of the images to trace with; of volumes channels, depth, rows and columns."""
    if isinstance(input_size, tuple) and len(input_size) == 4:
        return input_size
    if input_size is None:
        if isinstance(preprocess, Preprocess | VolumePreprocess):
            return preprocess.channels, *preprocess.size
        channels, rows, cols = one_input(preprocess(Image.new("RGB", (256, 256)))).shape
        return channels, rows, cols
    known = preprocess.channels if isinstance(preprocess, Preprocess) else 3
    if isinstance(input_size, int):
        return known, input_size, input_size
    if len(input_size) not in (2, 3):
        raise OptionError(
            f"input_size={input_size} is none of (rows, cols), (channels, rows, cols) and, of volumes, (channels, "
            "depth, rows, cols)"
        )
    channels, rows, cols = (known, *input_size) if len(input_size) == 2 else input_size
    return channels, rows, cols


# ── looking inside ────────────────────────────────────────────────────────────────────────────────────────────────────
def _known_structure(source: ModelSource, module: nn.Module) -> Structure | None:
    """Return what is known of the library's modules; None for variants that nothing is known of."""
    try:
        return source.structure(module)
    except LayoutError:
        return None


def _structure_of_last(module: nn.Module, size: tuple[int, ...]) -> Structure | None:
    """Return what is known of a library's module that stands last in an `nn.Sequential`, behind parts without weights.

    That is how people put the normalization before a model; the stages are those of the model alone.
    """
    if not isinstance(module, nn.Sequential) or not len(module):
        return None
    *before, (name, inner) = module.named_children()
    first = nn.Sequential(*(part for _, part in before))
    source = source_of(inner)
    if any(True for _ in first.parameters()) or not _keeps_size(first, size):
        return None
    structure = _structure_of_last(inner, size) if source is None else _known_structure(source, inner)
    return None if structure is None or structure.call else structure.below(f"{name}.")


def _keeps_size(first: nn.Module, size: tuple[int, ...]) -> bool:
    """Tell whether what stands before a model gives it images of the size that came."""
    try:
        with untouched(first), torch.no_grad():
            return tuple(first(torch.zeros(1, *size)).shape) == (1, *size)
    except Exception:  # whatever a module of the user's own may raise
        return False
