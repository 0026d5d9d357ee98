"""Every architecture family of timm, torchvision, transformers and open_clip: is it served, and rightly?

    python -m tests.models.census                    # what is not in the record yet; a quarter of an hour of a core
    python -m tests.models.census --only timm/swin   # names that begin so
    python -m tests.models.census --table            # the table of what is recorded, for docs/census.md

One small model of each family is built with random weights. Its structure is found; changed patches of an image must
show in their place in each stage, the layer for gradients and the attention; Grad-CAM and CDAM must equal what plain
hooks and `torch.autograd.grad` give; and a image is explained.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import seewhy
from seewhy.errors import LayoutError, SeewhyError
from seewhy.methods import METHODS
from seewhy.models.adapter import VisionModel
from seewhy.models.instrument.hooks import first_tensor, untouched, with_first_tensor
from seewhy.models.probe import locate
from seewhy.models.structure import Layer
from seewhy.targets import Custom, Output

RECORD = Path(__file__).resolve().parents[2] / "out" / "census.jsonl"
TOLERANCE = 1e-3
"""Of the largest value of a map: how far two ways to it may lie apart."""
FIRST = Custom(lambda e: e[:, 0], on="embedding", name="first number of the embedding")
"""Of an embedding; its norm is often constant, as the last thing that happened to it is a normalization."""
LIMIT_S, MEMORY_GB = 240, 14
"""What one family may take."""
_NO_MEMORY = "can't allocate memory"
WORKS, REFUSED, WRONG, FAILS, ABSENT = "works", "refused", "wrong", "fails", "absent"

PAGE = """# Census of architectures

Written by `make census` and then `python -m tests.models.census --table > docs/census.md`. One small model of each
architecture family, with random weights, is opened as a user would open it, and put to the test: changed patches of an
image show in their place in every stage, in the layer for gradients and in the attention; saliency, Grad-CAM and CDAM
are what plain hooks and `torch.autograd.grad` give; an image is explained; with images that are not square, where the
model takes them.

- *Works*: all of that holds. Where several branches lead to the score and no layer stands for all of them, Grad-CAM
  asks for `layer=`; the last column says so.
- *Refused*: there is an error in one line that says why; the last column is that error.
- *Wrong*: a number or a place is not what it should be. *Fails*: anything else.
- *Absent*: it could not be put to the test here, and does not count: a library that it needs was not there, or it is
  too large.
"""


@dataclass
class Outcome:
    """What became of one family."""

    family: str
    model: str
    outcome: str
    note: str = ""
    stages: int = 0
    cam_layer: str = ""
    blocks: int = 0
    found_by: str = ""
    seconds: float = 0.0
    probe_ms: float = 0.0
    unclear: int = 0
    size: str = ""
    versions: str = ""


class FaintError(Exception):
    """Fresh weights let all signals die out, so there is nothing to compare."""


class WrongError(Exception):
    """A number is not what it should be."""


class TookTooLong(BaseException):
    """One family has had its time."""


def examine(family: str, name: str, make: Callable[[], VisionModel]) -> Outcome:
    """Build one model and put it to the test."""
    result, start = Outcome(family, name, FAILS), time.process_time()
    try:
        torch.manual_seed(0)
        model = make()
        result.outcome, result.note = WORKS, model.structure.note
        _describe(model, result)
        _put_to_test(model, result)
    except FaintError:
        result.outcome, result.note = ABSENT, "its fresh weights let all signals die out: nothing can be compared"
    except WrongError as error:
        result.outcome, result.note = WRONG, str(error)
    except SeewhyError as error:
        result.outcome, result.note = REFUSED, str(error)
        if _NO_MEMORY in str(error):
            result.outcome, result.note = ABSENT, f"more than {MEMORY_GB} GB of memory"
    except ImportError as error:  # of a library that this kind of model needs
        result.outcome, result.note = ABSENT, " ".join(str(error).split())
    except TookTooLong:
        result.outcome, result.note = FAILS, f"more than {LIMIT_S} s"
    except Exception as error:  # what the census looks for
        if _NO_MEMORY in str(error):
            result.outcome, result.note = ABSENT, f"more than {MEMORY_GB} GB of memory"
        else:
            result.outcome, result.note = FAILS, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    result.seconds = round(time.process_time() - start, 1)
    return result


def _describe(model: VisionModel, result: Outcome) -> None:
    structure = model.structure
    result.stages, result.blocks, result.found_by = len(structure.stages), len(structure.blocks), structure.source
    result.cam_layer = structure.cam_layer.name if structure.cam_layer else ""


def _put_to_test(model: VisionModel, result: Outcome) -> None:
    _wake(model.module)
    try:
        _compare(model, result)
    except FaintError:
        _amplify(model.module)
        _compare(model, result)


def _compare(model: VisionModel, result: Outcome) -> None:
    model = _other_size(model)
    size = model.preprocess.size
    result.size, result.unclear = "×".join(map(str, size)), 0
    start = time.perf_counter()
    for located in locate(model, size=size):
        if located.is_wrong:
            raise WrongError(str(located))
        if not located.is_right:
            result.unclear += 1
    result.probe_ms = round(1000 * (time.perf_counter() - start))
    image = Image.fromarray(_photograph())
    x = model.preprocess_images([image])
    target: Any = 0 if "logits" in model.capabilities else FIRST
    _same("Saliency", METHODS["saliency"](model)(x, target), plain_saliency(model, x))
    if not model.structure.stages:
        return
    layer = _cam_layer(model, result)
    explanation = seewhy.explain(model, image, "grad_cam", target=target, layer=layer, relu=False)
    _same("Grad-CAM", torch.as_tensor(explanation.attribution)[None], plain_grad_cam(model, layer, x))
    if model.structure.blocks and "cdam" in METHODS and not METHODS["cdam"].why_incompatible(model):
        _same("CDAM", METHODS["cdam"](model)(x, target), plain_cdam(model, x))


def _other_size(model: VisionModel) -> VisionModel:
    """Return the model fed with images that are not square, and small, where it takes such."""
    smaller = model.with_size(128, 160)
    x = torch.zeros(2, 3, 128, 160)
    try:
        smaller.activations(x, smaller.structure.stages)
        smaller.forward_checked(x)
    except Exception:
        return model
    return smaller


def _cam_layer(model: VisionModel, result: Outcome) -> Layer:
    try:
        return model.cam_layer()
    except LayoutError:
        if not model.structure.ask:
            raise
        result.note = "; ".join(filter(None, (model.structure.ask, result.note)))
        return model.cam_layer(model.structure.stages[-1].name)


def _wake(module: nn.Module) -> None:
    """Give weights that a fresh model keeps at zero (heads, last norms of branches) a value."""
    generator = torch.Generator().manual_seed(0)
    for name, p in module.named_parameters():
        # a random bias for each pair of places would be louder than the image
        if p.is_floating_point() and not p.any() and p.ndim > 1 and "bias" not in name:
            p.data = 0.02 * torch.randn(p.shape, generator=generator).to(p)


def _amplify(module: nn.Module) -> None:
    """Scale weights so that signals neither die out nor grow on their way through the layers."""
    for p in module.parameters():
        if p.is_floating_point() and p.ndim > 1 and p.any():
            p.data *= (1.5 / p[0].numel() ** 0.5) / p.data.std().clamp(min=1e-12)


def _photograph() -> np.ndarray:
    from skimage import data

    return data.chelsea()


def _same(name: str, ours: Tensor, plain: Tensor) -> None:
    scale = float(plain.abs().max())
    gap = float((ours - plain).abs().max()) / (scale + 1e-30)
    if scale == 0 and not ours.any():
        raise FaintError
    if scale == 0 or gap > TOLERANCE:
        raise WrongError(f"{name} differs from plain hooks by {gap:.1g} of its largest value {scale:.1g}")


# ── the same with plain hooks ─────────────────────────────────────────────────────────────────────────────────────────
def _score(model: VisionModel, raw: Any) -> Tensor:
    for key in ("logits",):
        if not isinstance(raw, Tensor) and getattr(raw, key, None) is not None:
            return getattr(raw, key)[:, 0].sum()
    if "logits" in model.capabilities and isinstance(raw, Tensor):
        return raw[:, 0].sum()
    output = model.structure.read(raw, None)
    assert isinstance(output, Output)
    if output.logits is not None:
        return output.logits[:, 0].sum()
    return output.embedding[:, 0].sum()


def _value_and_gradient(model: VisionModel, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> Any:
        kept.append(first_tensor(output))
        return with_first_tensor(output, kept[0].clone())

    with untouched(model.module), torch.enable_grad():
        handle = model.submodule(name).register_forward_hook(keep)
        try:
            raw = model.module(x.clone().requires_grad_(), **model.structure.call)
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(_score(model, raw), kept[:1])
    return kept[0].detach(), gradient


def plain_saliency(model: VisionModel, x: Tensor) -> Tensor:
    """Compute the largest absolute gradient of each pixel's channels."""
    with untouched(model.module), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_score(model, model.module(leaf, **model.structure.call)), leaf)
    return gradient.abs().amax(1)


def plain_grad_cam(model: VisionModel, layer: Layer, x: Tensor) -> Tensor:
    """Compute Grad-CAM (eq. 1-2, without the ReLU) from one hook and one gradient."""
    value, gradient = (model.to_grid(v, layer, x.shape[-2:]) for v in _value_and_gradient(model, layer.name, x))
    return (gradient.mean((2, 3), keepdim=True) * value).sum(1)


def plain_cdam(model: VisionModel, x: Tensor) -> Tensor:
    """Compute CDAM (eq. 3) from one hook and one gradient."""
    value, gradient = _value_and_gradient(model, model.structure.blocks[-1].norm1, x)
    return model.tokens_to_map((value * gradient).sum(-1), x.shape[-2:])


# ── all of them ───────────────────────────────────────────────────────────────────────────────────────────────────────
def recorded(path: Path) -> dict[str, Outcome]:
    """Read the record; later lines count."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {outcome.family: outcome for line in lines if (outcome := Outcome(**json.loads(line)))}


def run(path: Path, only: str, again: bool) -> None:
    """Examine each family that is not in the record, one at a time, and record it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, versions = recorded(path), _versions()
    for family, name, make in importlib.import_module(".census_families", __package__).all_families():
        if not family.startswith(only) or (family in done and not again):
            continue
        signal.signal(signal.SIGPROF, _too_long)  # processor time: it does not depend on what else runs
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        outcome = examine(family, name, make)
        signal.setitimer(signal.ITIMER_PROF, 0)
        outcome.versions = versions
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
        print(f"{outcome.outcome:8} {family} {name} {outcome.seconds} s {outcome.note[:150]}", flush=True)
        gc.collect()


def _too_long(*_: Any) -> None:
    raise TookTooLong


def table(path: Path) -> Iterator[str]:
    """Yield the lines of the table, by library, with totals."""
    rows = sorted(recorded(path).values(), key=lambda r: r.family)
    yield f"**{_totals(rows)}.**"
    minutes = sum(r.seconds for r in rows) / 60
    versions = "; ".join(dict.fromkeys(r.versions for r in rows if r.versions))
    yield from ("", f"{minutes:.0f} minutes of one core in all, with {versions or 'versions that were not noted'}.")
    for library in dict.fromkeys(r.family.split("/")[0] for r in rows):
        of_library = [r for r in rows if r.family.startswith(f"{library}/")]
        yield from ("", f"## {library}", "", f"{_totals(of_library)}.", "")
        yield "| family | model | outcome | stages | default CAM layer | blocks | what to know |"
        yield "|---|---|---|---|---|---|---|"
        for r in of_library:
            note = r.note.replace("|", "\\|")
            family = r.family.removeprefix(f"{library}/")
            cam = f"`{r.cam_layer}`" if r.cam_layer else ""
            yield f"| {family} | {r.model} | {r.outcome} | {r.stages} | {cam} | {r.blocks} | {note} |"


def _totals(rows: list[Outcome]) -> str:
    count = {kind: sum(r.outcome == kind for r in rows) for kind in (WORKS, REFUSED, WRONG, FAILS, ABSENT)}
    tried = len(rows) - count[ABSENT]
    share = f"{100 * count[WORKS] / tried:.1f} %" if tried else "none"
    counts = ", ".join(f"{n} {kind}" for kind, n in count.items() if kind != ABSENT)
    return f"{tried} families: {counts}; {share} served ({count[ABSENT]} more absent)"


def _versions() -> str:
    """Say which versions of the libraries, and which commit of seewhy, are put to the test."""
    names = ("torch", "torchvision", "timm", "transformers", "open_clip_torch")
    found = []
    for name in names:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name).partition('+')[0]}")
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=9"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return ", ".join([*found, f"seewhy at {commit}"] if commit else found)


def main() -> None:
    """Run the census, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--only", default="", help="families that begin so")
    parser.add_argument("--again", action="store_true", help="also what is recorded")
    parser.add_argument("--table", action="store_true", help="print the table only")
    options = parser.parse_args()
    if options.table:
        print(PAGE, *table(options.record), sep="\n")
        return
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_GB << 30, MEMORY_GB << 30))
    operators = importlib.import_module("..torchvision_ops", __package__).define_missing_operators()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run(options.record, options.only, options.again)
    del operators  # they live as long as this object


if __name__ == "__main__":
    main()
