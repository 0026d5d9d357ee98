"""Where a timm model keeps what.

timm says which modules hold features (`feature_info`), but not how they lie: channels may come second or last, and
tokens may be many things. One forward of a blank image settles it, so that no list of architectures is kept here, and
what does not lie as it should is left out instead of being reshaped by force.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.errors import LayoutError
from seewhy.models.instrument.attention import reading_attention
from seewhy.models.instrument.hooks import hooked, untouched
from seewhy.models.structure import Block, Layer, Structure

WRAP = "say where its features are: seewhy.wrap(module, layers=…)"


def recognizes(module: nn.Module) -> bool:
    """Whether the module's class is timm's, or made from one."""
    return any(cls.__module__.split(".")[0] == "timm" for cls in type(module).__mro__)


def structure(module: nn.Module) -> Structure:
    """Where a timm model keeps what, found by one forward of a blank image.

    The embedding is what enters the classifier, `forward_head(x, pre_logits=True)`. Models with two classifiers
    (distilled DeiT: class and distillation token) give the mean of both as logits, and the first one's input, the
    class token, as embedding.

    Raises:
        LayoutError: the model does not tell where its features are, or they do not lie on a grid.
    """
    kind = type(module).__name__
    info = getattr(module, "feature_info", None)
    if not hasattr(module, "get_classifier") or not info:
        raise LayoutError(f"timm's {kind} does not tell where its features are; {WRAP}")
    listed = {entry["module"]: entry for entry in getattr(info, "info", info) if entry.get("module")}
    size, trace = input_size(module), _trace(module, listed)
    head, two_heads = _head(module, kind, trace)
    patch = _patch_size(module, list(listed.values())[-1]["reduction"])
    layers = (_layer(module, name, entry, trace, size, patch) for name, entry in listed.items())
    stages = tuple(layer for layer in layers if layer)
    if not stages:
        raise LayoutError(f"the features of timm's {kind} do not lie on a grid that seewhy knows; {WRAP}")
    tokens = stages[-1].layout == "tokens"
    whole = all(layer.prefix is None for layer in stages) and trace.attending == {layer.name for layer in stages}
    blocks = tuple(Block(layer.name, f"{layer.name}.norm1", f"{layer.name}.attn") for layer in stages) if whole else ()
    return Structure(
        source="timm",
        stages=stages,
        blocks=blocks,
        head=head,
        classes=module.num_classes if head else None,
        cam_layer=_token_cam(stages, blocks) if tokens else _deepest_map(module, stages[-1], trace),
        prefix_tokens=getattr(module, "num_prefix_tokens", 0) if tokens else 0,
        class_token=tokens and getattr(module, "cls_token", None) is not None and module.global_pool == "token",
        patch_size=patch if tokens else None,
        note="two classifiers: logits are their mean, the embedding is the first one's input" if two_heads else "",
    )


@dataclass
class _Trace:
    """What one forward showed.

    Attributes:
        shapes: of the output of each module, in the order in which they ended.
        numbers: of the output of each module: the same where a module only passes on what came out of another.
        attending: the blocks with a norm right before global self-attention.
        output: what came out last; in the end, of the model.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    attending: set[str] = field(default_factory=set)
    output: Any = None
    count: int = 0

    def note(self, name: str, output: Any) -> None:
        """A module has ended."""
        self.count += output is not self.output
        self.output = output
        self.shapes.pop(name, None)
        self.shapes[name] = tuple(output.shape) if isinstance(output, Tensor) else ()
        self.numbers[name] = self.count


def _trace(module: nn.Module, listed: dict[str, dict]) -> _Trace:
    """Run a blank image and look."""
    parts, first = dict(module.named_modules()), next(module.parameters())
    x = torch.zeros(1, getattr(module, "in_chans", 3), *input_size(module), device=first.device, dtype=first.dtype)
    candidates = [name for name in listed if f"{name}.norm1" in parts and f"{name}.attn" in parts]
    try:
        try:
            return _run(module, x, candidates)
        except LayoutError:  # attention that cannot be read
            return _run(module, x, [])
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise LayoutError(
            f"timm's {type(module).__name__} does not run on a {x.shape[-2]}×{x.shape[-1]} image "
            f"({reason(error)}); {WRAP}"
        ) from error


def _run(module: nn.Module, x: Tensor, candidates: list[str]) -> _Trace:
    trace, normed, widths = _Trace(), {}, {}

    def before(name: str, args: tuple) -> None:
        if args and args[0] is normed.pop(name, None):  # the attention reads the norm's output, all of it at once
            widths[name] = args[0].shape[1]

    def receive(number: int, matrix: Tensor) -> None:
        name = candidates[number]
        if matrix.ndim == 4 and matrix.shape[0] == len(x) and matrix.shape[-1] == widths.get(name):
            trace.attending.add(name)

    attention = {i: module.get_submodule(name).attn for i, name in enumerate(candidates)}
    with torch.no_grad(), untouched(module), ExitStack() as stack:
        for name, part in module.named_modules():
            stack.enter_context(hooked(part, lambda _, __, out, name=name: trace.note(name, out)))
        for name in candidates:
            block = module.get_submodule(name)
            stack.enter_context(hooked(block.norm1, lambda _, __, out, name=name: normed.update({name: out})))
            stack.callback(block.attn.register_forward_pre_hook(lambda _, args, name=name: before(name, args)).remove)
        stack.enter_context(reading_attention(attention, receive, batch=len(x), rows=slice(0, 1)))
        module(x)
    return trace


def _layer(
    module: nn.Module, name: str, entry: dict, trace: _Trace, size: tuple[int, int], patch: tuple[int, int]
) -> Layer | None:
    """The listed module as a layer, if its output lies as a map, or as all patch tokens row by row."""
    shape, channels = trace.shapes.get(name, ()), entry["num_chs"]
    if len(shape) == 4 and channels in (shape[1], shape[3]):
        if shape[1] == shape[3]:
            return Layer(name, getattr(module, "output_fmt", "NCHW").lower())
        return Layer(name, "nchw" if shape[1] == channels else "nhwc")
    # without a count of prefix tokens, tokens may lie in another order (Hiera's do)
    if len(shape) == 3 and shape[2] == channels and hasattr(module, "num_prefix_tokens"):
        prefix = shape[1] - -(-size[0] // patch[0]) * -(-size[1] // patch[1])
        if prefix in (0, module.num_prefix_tokens):
            return Layer(name, "tokens", prefix=None if prefix == module.num_prefix_tokens else 0)
    return None


def _token_cam(stages: tuple[Layer, ...], blocks: tuple[Block, ...]) -> Layer | None:
    """The norm before the last attention; where blocks are of another kind, what enters the last of them."""
    if blocks:
        return Layer(blocks[-1].norm1, "tokens", prefix=stages[-1].prefix)
    return stages[-2] if len(stages) > 1 else None


def _deepest_map(module: nn.Module, last: Layer, trace: _Trace) -> Layer:
    """The last stage, or what follows it on the same grid (a convolution, norm or activation before the pooling)."""

    def grid(name: str) -> tuple[int, ...]:
        shape = trace.shapes[name]
        return () if len(shape) != 4 else shape[1:3] if last.layout == "nhwc" else shape[2:]

    order, children = list(trace.shapes), dict(module.named_children())
    after = [
        name
        for name in order[order.index(last.name) + 1 :]
        if name in children
        and grid(name) == grid(last.name) != (1, 1)
        and trace.numbers[name] != trace.numbers[last.name]
    ]
    return Layer(after[-1], last.layout) if after else last


def _head(module: nn.Module, kind: str, trace: _Trace) -> tuple[str | None, bool]:
    """The classifier's name, if there is one, and whether there are two."""
    if not isinstance(trace.output, Tensor) or trace.output.ndim != 2:
        raise LayoutError(f"this {kind} gives no vector per image; create it with a global_pool, or {WRAP}")
    found = module.get_classifier()
    two = isinstance(found, tuple)
    found = found[0] if two else found
    found = found.fc if hasattr(found, "global_pool") and hasattr(found, "fc") else found  # a head that pools first
    name = next((n for n, part in module.named_modules() if part is found), None)
    if not module.num_classes or isinstance(found, nn.Identity):
        return None, False
    if name not in trace.shapes:
        raise LayoutError(f"the classifier of timm's {kind} is not one module; {WRAP}")
    return name, two


def input_size(module: nn.Module) -> tuple[int, int]:
    """Rows and columns that the model was made for."""
    own = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return tuple(own or (getattr(module, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[-2:])


def _patch_size(module: nn.Module, reduction: int) -> tuple[int, int]:
    ratio = getattr(getattr(module, "patch_embed", None), "feat_ratio", None)
    return tuple(ratio(as_scalar=False)) if ratio else (reduction, reduction)


def reason(error: Exception) -> str:
    """The first line of a library's message."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
