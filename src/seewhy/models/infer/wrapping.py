"""Any `nn.Module` as a model that can be explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from seewhy.core.preprocess import Preprocess
from seewhy.errors import LayoutError, ModelError, OptionError
from seewhy.models.adapter import VisionModel
from seewhy.models.infer.layouts import LayoutHints
from seewhy.models.infer.outputs import Outcome, OutputHints, Read, outcome
from seewhy.models.infer.stages import StructureFinder
from seewhy.models.infer.trace import Trace, trace
from seewhy.models.instrument.hooks import INFERENCE, made_in_inference_mode
from seewhy.models.load import source_of
from seewhy.models.structure import Layer, Structure

ClassNames = Sequence[str] | Mapping[Any, str] | str | Path


def wrap(
    module: Any,
    *,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    class_names: ClassNames | None = None,
    name: str = "",
    layers: Sequence[str | Layer] | None = None,
    layout: str | None = None,
    patch_size: int | tuple[int, int] | None = None,
    prefix_tokens: int | None = None,
    head: str | nn.Module | None = None,
    output: str | None = None,
    read: Read | None = None,
    input_size: int | tuple[int, ...] | None = None,
    multi_label: bool = False,
    structure: Structure | None = None,
) -> VisionModel:
    """Make a module of your own explainable.

    Modules of timm, torchvision, transformers and open_clip are known. In any other, layers, tokens and the classifier
    are found by one forward and backward pass of random images; the module is left as it was.

    Args:
        module: an `nn.Module` that takes (B, channels, rows, cols). Wrappers of `torch.compile` and data parallelism
            are taken off.
        preprocess: from a PIL image to (channels, rows, cols); default: what the library tells of its module, else
            ImageNet's (see `seewhy.core.preprocess`).
        class_names: a list, a dict from index to name, or a text file with a name on each line.
        name: for messages and manifests.
        layers: the feature layers from shallow to deep, by dotted name, instead of those found.
        layout: of maps whose layout is not evident, `nchw` or `nhwc`; with `layers` also `tokens`.
        patch_size: pixels per patch, where it cannot be found.
        prefix_tokens: class and register tokens before the patch tokens, where they cannot be counted.
        head: the module from embedding to logits, where it is not the linear layer that gives the result.
        output: what the module returns, "logits" or "embedding", where it cannot be told.
        read: from what the module returns and the head's input to an `Output`, for dicts, tuples and maps.
        input_size: of the images that the module takes: side, (rows, cols) or (channels, rows, cols); default: what
            `preprocess` gives.
        multi_label: whether each logit stands for itself (sigmoid).
        structure: everything, known already; nothing is looked for.

    Raises:
        LayoutError: something is ambiguous; the message says which argument settles it.
        ModelError: not a module that can be opened up, or it does not run on such images.
    """
    module = unwrapped(module)
    source = source_of(module)
    module = source.tower(module) if hasattr(source, "tower") else module
    recipe = preprocess or (source.preprocess(module) if hasattr(source, "preprocess") else Preprocess())
    if structure is None:
        hints, said = (
            LayoutHints(layout, _pair(patch_size), prefix_tokens),
            OutputHints(head, output, read, class_names is not None),
        )
        asked = layers is not None or hints != LayoutHints() or said != OutputHints(named=said.named)
        structure = None if asked or source is None else _known(source, module)
        structure = structure or _found(module, _size(input_size, recipe), layers, hints, said)
        structure = replace(structure, multi_label=multi_label or structure.multi_label)
    names = read_class_names(class_names)
    model = VisionModel(module, structure, name=name, preprocess=recipe, class_names=names)
    if names and structure.classes not in (None, len(names)):
        raise OptionError(f"{len(names)} class names for {structure.classes} classes; give one for each")
    return model


# ── what can be opened up at all ──────────────────────────────────────────────────────────────────────────────────────
def unwrapped(module: Any) -> nn.Module:
    """The plain module inside of `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    Raises:
        ModelError: hooks do not work in it (TorchScript, compiled in place or in parts), or it is no module.
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


def read_class_names(names: ClassNames | None) -> list[str] | None:
    """Class names in the order of their indices.

    Raises:
        OptionError: the file cannot be read, or the keys of the dict are no indices from 0 on.
    """
    if names is None:
        return None
    if isinstance(names, (str, Path)):
        try:
            return [line.strip() for line in Path(names).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(
                f"cannot read class names from {names} ({error}); give a text file with a name on each line"
            ) from None
    if isinstance(names, Mapping):
        try:
            by_index = {int(key): str(value) for key, value in names.items()}
        except ValueError:
            raise OptionError("class_names as a dict goes from index to name, as {0: 'cat', 1: 'dog'}") from None
        if sorted(by_index) != list(range(len(by_index))):
            raise OptionError(f"class_names lacks some of 0 … {max(by_index)}; give a name for each class")
        return [by_index[i] for i in range(len(by_index))]
    return [str(n) for n in names]


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _size(given: int | tuple[int, ...] | None, preprocess: Any) -> tuple[int, int, int]:
    """Channels, rows, cols of the images to look with."""
    if given is None:
        if isinstance(preprocess, Preprocess):
            return 3, *preprocess.size
        return tuple(preprocess(Image.new("RGB", (256, 256))).shape)
    size = (given, given) if isinstance(given, int) else tuple(given)
    return size if len(size) == 3 else (3, *size)


# ── looking inside ────────────────────────────────────────────────────────────────────────────────────────────────────
def _known(source: ModuleType, module: nn.Module) -> Structure | None:
    """What is known of the library's modules; None for variants that nothing is known of."""
    try:
        return source.structure(module)
    except LayoutError:
        return None


def _found(
    module: nn.Module,
    size: tuple[int, int, int],
    layers: Sequence[str | Layer] | None,
    hints: LayoutHints,
    said: OutputHints,
) -> Structure:
    if made_in_inference_mode(module):
        raise ModelError(f"looking inside takes a backward pass, and gradients do not pass {INFERENCE}")
    with torch.inference_mode(False), torch.enable_grad():
        seen = trace(module, size)
        return _structure(seen, outcome(seen, said), layers, hints)


def _structure(seen: Trace, end: Outcome, layers: Sequence[str | Layer] | None, hints: LayoutHints) -> Structure:
    found = StructureFinder(seen, end.pooled, hints)
    blocks = found.blocks()
    grid = found.grid(blocks)
    norms = [spot for _, __, norm in blocks if (spot := found.spot(norm, grid))]
    named = layers is not None
    stages = [found.named(layer, grid) for layer in layers] if named else found.stages(grid, blocks)
    cam = next((spot for spot in reversed(stages if named else norms or stages) if found.reaches(spot, grid)), None)
    last = found.spot(blocks[-1][1], grid) if blocks else None
    reads_patches = last is not None and found.reaches(last, grid)
    reads_first = last is not None and bool(grid.prefix) and found.listens_to_first(last.call)
    return Structure(
        source="module",
        stages=tuple(spot.layer for spot in stages),
        cam_layer=cam.layer if cam else None,
        blocks=tuple(block for block, _, __ in blocks),
        prefix_tokens=grid.prefix if grid else 0,
        # beside patches that count, one of several prefix tokens may as well be a register in a mean over all
        class_token=reads_first and (grid.prefix == 1 or not reads_patches),
        reads_patches=reads_patches,
        patch_size=found.stride((grid.rows, grid.cols)) if grid else None,
        pads=False,
        head=end.head,
        read=end.read,
        has_logits=end.has_logits,
        classes=end.classes,
        has_embedding=end.has_embedding,
        has_gradients=bool(found.bottlenecks),
        note=end.note,
    )
