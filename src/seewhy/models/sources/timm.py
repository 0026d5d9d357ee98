"""Models of timm: by name, with their own preprocessing and class names, and where they keep what.

timm says which modules hold features (`feature_info`), but not how they lie: channels may come second or last, and
tokens may be many things. One forward of a blank image settles it, so that no list of architectures is kept here, and
what does not lie as it should is left out instead of being reshaped by force.
"""

from __future__ import annotations

import fnmatch
import math
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seewhy.core.imagenet import imagenet_classes
from seewhy.core.io import first_line
from seewhy.core.preprocess import Preprocess
from seewhy.errors import LayoutError, ModelError, OptionError, UnknownNameError, WeightsError, require
from seewhy.models.adapter import VisionModel
from seewhy.models.infer.find import find_structure, known_or_found
from seewhy.models.infer.outputs import OutputHints
from seewhy.models.instrument.attention import reading_attention
from seewhy.models.instrument.hooks import hooked, untouched
from seewhy.models.probe import checked
from seewhy.models.structure import Block, Layer, Structure
from seewhy.targets import Output

PREFIX = "timm/"
PACKAGE = "timm"
DISTRIBUTIONS = ("timm",)
EXTRA = "timm"
HUB = ("hf-hub:", "hf_hub:", "local-dir:")
"""How names of models outside of timm's own list start."""

WRAP = "say where its features are: seewhy.wrap(module, layers=…)"


def load(name: str, *, pretrained: bool = True, **options: Any) -> VisionModel:
    """Load a timm model by name (`vit_small_patch16_224.dino`, `hf-hub:owner/repo`), with its own preprocessing.

    Classes have names where the weights of that name are trained on ImageNet-1k (also with `pretrained=False`, for
    weights that come from a file), or where the model's repository brings them.

    Args:
        name: Architecture, or architecture.weights.
        pretrained: Whether to fetch the weights, or leave the parameters random.
        **options: For `timm.create_model`, as `num_classes=0`, `img_size=(384, 192)`, `dynamic_img_size=True`.

    Raises:
        MissingExtraError: timm is not installed.
        UnknownNameError: There is no such architecture, or no such weights for it.
        WeightsError: The weights cannot be fetched, or do not fit.
        OptionError: The architecture does not take an option.
    """
    timm = require("timm", EXTRA)
    if not name.startswith(HUB):
        _check_name(timm, name)
    module = _create(timm, name, pretrained, options).eval()
    found = known_or_found(structure, module, (getattr(module, "in_chans", 3), *input_size(module)))
    return checked(
        VisionModel(module, found, name=f"timm/{name}", preprocess=preprocess(module), class_names=_class_names(module))
    )


def names(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern: each architecture, and each with the weights that exist for it."""
    timm = require("timm", EXTRA)
    return sorted(fnmatch.filter({*timm.list_models(), *timm.list_pretrained()}, pattern))


def _check_name(timm: Any, name: str) -> None:
    architecture, _, weights = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownNameError("timm model", name, names(), "`seewhy models 'timm/*'` lists them")
    known = [n for n in timm.list_pretrained() if n.partition(".")[0] == architecture]
    if weights and name not in known:
        raise UnknownNameError(f"weights for timm's {architecture}", name, [architecture, *known])


def _create(timm: Any, name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    try:
        module = timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise OptionError(
            f"timm cannot create {name!r} with {options} ({_reason(error)}); leave one of them out"
        ) from error
    except RuntimeError as error:
        raise WeightsError(f"timm/{name}: {_reason(error)}; use pretrained=False or other weights") from error
    except Exception as error:  # whichever HTTP client the hub uses, with errors of its own
        raise WeightsError(
            f"the weights of timm/{name} cannot be fetched: the hub is not reachable ({_reason(error)}); put them in a "
            f"file and use load_model('weights.safetensors', architecture='timm/{name}'), or pretrained=False"
        ) from error
    if options.get("img_size"):  # some architectures keep it nowhere
        size = options["img_size"]
        rows, cols = (size, size) if isinstance(size, int) else size
        module.pretrained_cfg = {**module.pretrained_cfg, "input_size": (3, rows, cols)}
    return module


def preprocess(module: nn.Module) -> Preprocess:
    """Return the preprocessing of the weights that the module's configuration names."""
    timm = require("timm", EXTRA)
    config = timm.data.resolve_data_config({}, model=module)
    return Preprocess.from_timm({**config, "input_size": (config["input_size"][0], *input_size(module))})


def _class_names(module: Any) -> tuple[str, ...] | None:
    config, classes = module.pretrained_cfg, module.num_classes
    label_names = config.get("label_names")
    if label_names and len(label_names) == classes:
        return tuple(label_names)
    return imagenet_classes() if classes == 1000 and "in1k" in (config.get("tag") or "") else None


# ── files of weights ──────────────────────────────────────────────────────────────────────────────────────────────────
def options_for(module: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what `timm.create_model` must be told so that the architecture takes these weights."""
    options: dict[str, Any] = {}
    expected = module.state_dict()
    head = (getattr(module, "pretrained_cfg", None) or {}).get("classifier")
    if not module.num_classes and isinstance(head, str) and f"{head}.weight" in state:
        options["num_classes"] = len(state[f"{head}.weight"])
    old, new = state.get("pos_embed"), expected.get("pos_embed")
    patches = getattr(getattr(module, "patch_embed", None), "num_patches", 0)
    if old is not None and new is not None and old.ndim == 3 and old.shape[1] != new.shape[1] and patches:
        side = math.isqrt(max(0, old.shape[1] - (new.shape[1] - patches)))
        if side and side**2 + new.shape[1] - patches == old.shape[1]:
            options["img_size"] = side * _patch_size(module, 0)[0]
    first = next((key for key, value in expected.items() if value.ndim == 4), "")
    if first in state and state[first].ndim == 4 and state[first].shape[1] != expected[first].shape[1]:
        options["in_chans"] = state[first].shape[1]
    if "fc_norm.weight" in state and "fc_norm.weight" not in expected and "norm.weight" not in state:
        options["global_pool"] = "avg"  # fine-tuned MAE
    return options


def options_for_size(module: Any, rows: int, cols: int) -> dict[str, Any]:
    """Return what makes a model with a table of positions for one size take another."""
    fixed = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return {"img_size": (rows, cols)} if fixed and tuple(fixed) != (rows, cols) else {}


def converted(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the weights under timm's names, by timm's own conversion of what the authors published."""
    if state.keys() == module.state_dict().keys():
        return state
    own = sys.modules.get(type(module).__module__)
    convert = getattr(own, "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(dict(state), module)
    except Exception:  # written for the files that it knows
        return state


# ── where it keeps what ───────────────────────────────────────────────────────────────────────────────────────────────
def recognizes(module: nn.Module) -> bool:
    """Tell whether the module's class is timm's, or made from one."""
    return any(cls.__module__.split(".")[0] == "timm" for cls in type(module).__mro__)


def structure(module: nn.Module) -> Structure:
    """Tell where a timm model keeps what, by one forward of a blank image.

    The embedding is what enters the classifier, `forward_head(x, pre_logits=True)`. Models with two classifiers
    (distilled DeiT: class and distillation token) give the mean of both as logits, and the first one's input, the
    class token, as embedding. Encoders that give tokens or a map instead of a vector are looked into; their embedding
    is the mean.

    Raises:
        LayoutError: The model does not tell where its features are, or they do not lie on a grid.
    """
    try:
        return _structure(module)
    except LayoutError:
        if getattr(module, "num_classes", None) != 0 or hasattr(module, "get_classifier"):
            raise
    return _encoder(module)


def _encoder(module: Any) -> Structure:
    """Look into an encoder (the image side of a language model) that has no classifier, nor a place for one."""
    try:
        found = find_structure(
            module, (getattr(module, "in_chans", 3), *input_size(module)), output_hints=OutputHints(read=_read_mean)
        )
    except ModelError as error:
        raise LayoutError(f"timm's {type(module).__name__} does not tell where its features are ({error})") from error
    return replace(found, note="; ".join(filter(None, ("the embedding is the mean of what it gives", found.note))))


def _read_mean(raw: Any, _: Tensor | None) -> Output:
    """Read tokens (batch, tokens, dim), or a map with its channels second, by their mean; a vector as it is."""
    if not isinstance(raw, Tensor) or raw.ndim < 2:
        raise LayoutError(f"the encoder gives {type(raw).__name__}, not a tensor; {WRAP}")
    return Output(embedding=raw.mean(1) if raw.ndim == 3 else raw.flatten(2).mean(2) if raw.ndim > 3 else raw)


def _structure(module: Any) -> Structure:
    kind = type(module).__name__
    info = getattr(module, "feature_info", None)
    if not hasattr(module, "get_classifier") or not info:
        raise LayoutError(f"timm's {kind} does not tell where its features are; {WRAP}")
    listed = {entry["module"]: entry for entry in getattr(info, "info", info) if entry.get("module")}
    size = input_size(module)
    run = _blank_run(module, listed)
    head, has_two_heads = _head(module, kind, run)
    patch = _patch_size(module, list(listed.values())[-1]["reduction"])
    layers = (_layer(module, name, entry, run, size, patch) for name, entry in listed.items())
    stages = tuple(layer for layer in layers if layer)
    if not stages:
        raise LayoutError(f"the features of timm's {kind} do not lie on a grid that seewhy knows; {WRAP}")
    is_tokens = stages[-1].layout == "tokens"
    blocks = _blocks(stages, run)
    return Structure(
        source="timm",
        stages=stages,
        blocks=blocks,
        head=head,
        classes=module.num_classes if head else None,
        cam_layer=_token_cam(stages, blocks) if is_tokens else _deepest_map(module, stages[-1], run),
        prefix_tokens=getattr(module, "num_prefix_tokens", 0) if is_tokens else 0,
        class_token=is_tokens and getattr(module, "cls_token", None) is not None and module.global_pool == "token",
        patch_size=patch if is_tokens else None,
        note="two classifiers: logits are their mean, the embedding is the first one's input" if has_two_heads else "",
    )


@dataclass
class _BlankRun:
    """Record of one forward of a blank image.

    Attributes:
        shapes: By the name of a module, the shape of its output (empty: no tensor), in the order in which they ended.
        numbers: By the name of a module, the number of its output: equal for modules that hand on the same thing.
        attending: Names of the blocks with a norm right before global self-attention.
        output: What came out last; in the end, of the model.
        count: How many outputs there were.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    attending: set[str] = field(default_factory=set)
    output: Any = None
    count: int = 0

    def note(self, name: str, output: Any) -> None:
        """Note that a module has ended."""
        self.count += output is not self.output
        self.output = output
        self.shapes.pop(name, None)
        self.shapes[name] = tuple(output.shape) if isinstance(output, Tensor) else ()
        self.numbers[name] = self.count


def _blank_run(module: Any, listed: dict[str, dict[str, Any]]) -> _BlankRun:
    """Run a blank image and look."""
    parts = dict(module.named_modules())
    weight = next(module.parameters())
    x = torch.zeros(1, getattr(module, "in_chans", 3), *input_size(module), device=weight.device, dtype=weight.dtype)
    candidates = [name for name in listed if f"{name}.norm1" in parts and f"{name}.attn" in parts]
    try:
        try:
            return _run(module, x, candidates)
        except LayoutError:  # attention that cannot be read
            return _run(module, x, [])
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise LayoutError(
            f"timm's {type(module).__name__} does not run on a {x.shape[-2]}×{x.shape[-1]} image "
            f"({_reason(error)}); {WRAP}"
        ) from error


def _run(module: nn.Module, x: Tensor, candidates: list[str]) -> _BlankRun:
    run = _BlankRun()
    normed: dict[str, Any] = {}
    tokens: dict[str, int] = {}

    def note(name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        run.note(name, output)

    def keep_normed(name: str, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        normed[name] = output

    def before_attention(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        if args and args[0] is normed.pop(name, None):  # the attention reads the norm's output, all of it at once
            tokens[name] = args[0].shape[1]

    def receive(number: int, matrix: Tensor) -> None:
        name = candidates[number]
        if matrix.ndim == 4 and matrix.shape[0] == len(x) and matrix.shape[-1] == tokens.get(name):
            run.attending.add(name)

    attention = {i: module.get_submodule(f"{name}.attn") for i, name in enumerate(candidates)}
    with torch.no_grad(), untouched(module), ExitStack() as stack:
        for name, part in module.named_modules():
            stack.enter_context(hooked(part, partial(note, name)))
        for i, name in enumerate(candidates):
            stack.enter_context(hooked(module.get_submodule(f"{name}.norm1"), partial(keep_normed, name)))
            stack.callback(attention[i].register_forward_pre_hook(partial(before_attention, name)).remove)
        stack.enter_context(reading_attention(attention, receive, batch=len(x), rows=slice(0, 1)))
        module(x)
    return run


def _layer(
    module: Any, name: str, entry: dict[str, Any], run: _BlankRun, size: tuple[int, int], patch: tuple[int, int]
) -> Layer | None:
    """Return the listed module as a layer, if its output lies as a map, or as all patch tokens row by row."""
    shape, channels = run.shapes.get(name, ()), entry["num_chs"]
    if len(shape) == 4 and channels in (shape[1], shape[3]):
        if shape[1] == shape[3]:
            return Layer(name, getattr(module, "output_fmt", "NCHW").lower())
        return Layer(name, "nchw" if shape[1] == channels else "nhwc")
    # without a count of prefix tokens, tokens may lie in another order (Hiera's do)
    if len(shape) == 3 and shape[2] == channels and hasattr(module, "num_prefix_tokens"):
        rows, cols = -(-size[0] // patch[0]), -(-size[1] // patch[1])
        prefix = shape[1] - rows * cols
        if prefix in (0, module.num_prefix_tokens):
            return Layer(name, "tokens", prefix=None if prefix == module.num_prefix_tokens else 0)
    return None


def _blocks(stages: tuple[Layer, ...], run: _BlankRun) -> tuple[Block, ...]:
    """Return the stages as transformer blocks, if all are, with all tokens and global attention."""
    names = [layer.name for layer in stages]
    if any(layer.prefix is not None for layer in stages) or run.attending != set(names):
        return ()
    return tuple(Block(name, f"{name}.norm1", f"{name}.attn") for name in names)


def _token_cam(stages: tuple[Layer, ...], blocks: tuple[Block, ...]) -> Layer | None:
    """Return the norm before the last attention; where blocks are of another kind, what enters the last of them."""
    if blocks:
        return Layer(blocks[-1].norm1, "tokens", prefix=stages[-1].prefix)
    return stages[-2] if len(stages) > 1 else None


def _deepest_map(module: nn.Module, last: Layer, run: _BlankRun) -> Layer:
    """Return the last stage, or what follows it on the same grid (a convolution, norm or activation before pooling)."""

    def cells(name: str) -> tuple[int, ...]:
        shape = run.shapes[name]
        if len(shape) != 4:
            return ()
        return shape[1:3] if last.layout == "nhwc" else shape[2:]

    order = list(run.shapes)
    children = dict(module.named_children())
    deepest = last.name
    for name in order[order.index(last.name) + 1 :]:
        is_another_output = run.numbers[name] != run.numbers[last.name]
        if name in children and cells(name) == cells(last.name) != (1, 1) and is_another_output:
            deepest = name
    return last if deepest == last.name else Layer(deepest, last.layout)


def _head(module: Any, kind: str, run: _BlankRun) -> tuple[str | None, bool]:
    """Return the classifier's name, if there is one, and whether there are two."""
    if not isinstance(run.output, Tensor) or run.output.ndim != 2:
        raise LayoutError(f"this {kind} gives no vector per image; create it with a global_pool, or {WRAP}")
    classifier = module.get_classifier()
    has_two = isinstance(classifier, tuple)
    if has_two:
        classifier = classifier[0]
    if hasattr(classifier, "global_pool") and hasattr(classifier, "fc"):  # a head that pools first
        classifier = classifier.fc
    if not module.num_classes or isinstance(classifier, nn.Identity):
        return None, False
    name = next((name for name, part in module.named_modules() if part is classifier), None)
    if name not in run.shapes:
        raise LayoutError(f"the classifier of timm's {kind} is not one module; {WRAP}")
    return name, has_two


def input_size(module: Any) -> tuple[int, int]:
    """Return rows and columns that the model was made for."""
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if not size:
        size = (getattr(module, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[-2:]
    return size[0], size[1]


def _patch_size(module: Any, reduction: int) -> tuple[int, int]:
    feat_ratio = getattr(getattr(module, "patch_embed", None), "feat_ratio", None)
    if feat_ratio is None:
        return reduction, reduction
    rows, cols = feat_ratio(as_scalar=False)
    return rows, cols


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(".")
