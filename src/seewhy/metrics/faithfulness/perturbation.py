"""Asking the model about many variants of each image: what the faithfulness metrics share. No metric of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.errors import OptionError
from seewhy.methods.baselines import BASELINE_IMAGES, check_baseline, starting_images
from seewhy.methods.perturbation.masks import upcast
from seewhy.methods.perturbation.rise import as_probability
from seewhy.metrics.base import Measurement, Metric, MetricInputs, option, ranks
from seewhy.models.instrument.hooks import untouched
from seewhy.targets import Output, Target

Fill = Callable[[int, int, int, Tensor], None]
"""`fill(image, start, stop, out)` writes variants start … stop − 1 of that image of the batch into `out`."""

BASELINE_HELP = f"what stands for removed pixels: {', '.join(BASELINE_IMAGES)}, or a color (white, #7f7f7f)"
NOT_FINITE = "the model's score of a perturbed image is NaN or infinite"


@dataclass(kw_only=True, eq=False)
class ModelMetric(Metric):
    """A metric that asks the model about variants of the image; subclasses implement `compare`."""

    batch_size: int = option(32, "images per forward pass (memory against speed; the values are the same)", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.options.items():
            if isinstance(value, list):  # plans are TOML: lists; keys of `MetricInputs.cached` must hash
                setattr(self, name, tuple(value))
        if hasattr(self, "baseline"):
            check_baseline(self.baseline)

    def compare(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Measurement:
        """The numbers; NaN where the model's scores are not finite."""
        raise NotImplementedError

    def score(self, maps: Float[Tensor, "batch rows cols"], given: MetricInputs) -> Measurement:
        found = self.compare(maps, given)
        fine = torch.isfinite(torch.stack([found.value, *found.parts.values()])).all(0).tolist()
        found.reasons = {i: NOT_FINITE for i, ok in enumerate(fine) if not ok}
        return found


def scores(given: MetricInputs, goal: Target, n: int, fill: Fill, batch_size: int) -> Float[Tensor, "batch n"]:
    """The goal's score of `n` variants of each image, float64; the model is left as it came.

    Passes hold `batch_size` variants, of as many images as that takes. Autocast is switched off: what a small
    perturbation changes is less than what bfloat16 rounds off.
    """
    x, model = given.x, given.model
    given.target.check(len(x), model.classes)
    if not n:
        return torch.empty(len(x), 0, dtype=torch.float64, device=x.device)
    found = []
    with (
        torch.no_grad(),
        torch.autocast(x.device.type, enabled=False),
        model.shape_error_context(x),
        untouched(model.module),
    ):
        for pieces in _passes(len(x), n, batch_size):
            rows = [image for image, start, stop in pieces for _ in range(start, stop)]
            variants = x.new_empty(len(rows), *x.shape[1:])
            end = 0
            for image, start, stop in pieces:
                begin, end = end, end + stop - start
                fill(image, start, stop, variants[begin:end])
            found.append(upcast(goal.at(rows).score(model.run(variants))))
    return torch.cat(found).double().view(len(x), n)


def choose(mask: Bool[Tensor, "..."], inside: Tensor, outside: Tensor, out: Tensor) -> None:
    """`torch.where` by bits, which on a CPU is four times as fast, and as exact."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[out.element_size()]
    inside, outside = inside.view(bits), outside.view(bits)
    torch.bitwise_and(mask.to(bits).neg_(), inside ^ outside, out=out.view(bits)).bitwise_xor_(outside)


def _passes(batch: int, n: int, batch_size: int) -> Iterator[list[tuple[int, int, int]]]:
    """For each pass, (image, first variant, one past the last) of the images that it holds, image after image."""
    for first in range(0, batch * n, batch_size):
        last = min(first + batch_size, batch * n)
        yield [(i, max(first - i * n, 0), min(last - i * n, n)) for i in range(first // n, -(-last // n))]


@dataclass(frozen=True, eq=False)
class Hit(Target):
    """1 where no class scores above the target's, else 0: the model still answers the target."""

    of: Target
    kind = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        logits, own = output.require(Capability.LOGITS), self.of.score(output)
        known = torch.isfinite(logits).all(1) & torch.isfinite(own)
        return (own >= logits.amax(1)).float().masked_fill(~known, torch.nan)

    def at(self, rows: Any) -> Target:
        return Hit(self.of.at(rows))


GOALS: dict[str, Callable[[MetricInputs], Target]] = {
    "logit": lambda given: given.target,
    "probability": lambda given: as_probability(given.target, given.model),
    "accuracy": lambda given: Hit(given.target),
}
"""What is read off the model: the target's score, its probability (for classes), or whether it is the answer."""


def baseline_images(given: MetricInputs, baseline: str) -> Float[Tensor, "batch channels height width"]:
    """The images with everything removed; made once for all maps, in float32 at least."""
    return given.cached(("baseline", baseline), partial(_removed, given, baseline))


def _removed(given: MetricInputs, baseline: str) -> Tensor:
    with torch.autocast(given.x.device.type, enabled=False):
        return starting_images(given.model, upcast(given.x), baseline).to(given.x)


def image_scores(given: MetricInputs, goal: str, batch_size: int) -> Float[Tensor, "batch"]:
    """The scores of the images as they are; asked once for all maps."""
    return given.cached(("endpoint", goal, None), partial(_endpoint, given, goal, None, batch_size))


def baseline_scores(given: MetricInputs, goal: str, baseline: str, batch_size: int) -> Float[Tensor, "batch"]:
    """The scores of the images with everything removed; asked once for all maps."""
    return given.cached(("endpoint", goal, baseline), partial(_endpoint, given, goal, baseline, batch_size))


def _endpoint(given: MetricInputs, goal: str, baseline: str | None, batch_size: int) -> Tensor:
    images = given.x if baseline is None else baseline_images(given, baseline)
    return scores(given, GOALS[goal](given), 1, lambda i, a, b, out: out.copy_(images[i : i + 1]), batch_size)[:, 0]


# ── perturbing in the order of a map ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Path:
    """How an image changes along a curve.

    Attributes:
        first: which pixels change first, the "most" or the "least" important.
        baseline: what stands for removed pixels.
        reveal: whether the curve goes from the baseline to the image; else from the image to the baseline.
    """

    first: str
    baseline: str
    reveal: bool = False


def places(maps: Float[Tensor, "batch rows cols"], first: str) -> Int[Tensor, "batch rows cols"]:
    """When each pixel's turn comes, from 0.

    Ties go row by row from the top in both orders, so that a constant map has the same curve in both.
    """
    order = ranks(maps.flatten(1) if first == "most" else -maps.flatten(1))
    turns = torch.arange(order.shape[1], device=order.device, dtype=torch.int32).expand(order.shape)
    return torch.empty_like(turns).scatter_(1, order, turns).view(maps.shape)


def curves(
    maps: Float[Tensor, "batch rows cols"],
    given: MetricInputs,
    paths: list[Path],
    *,
    steps: int,
    goal: str,
    batch_size: int,
    keep: bool = True,
) -> list[Float[Tensor, "batch points"]]:
    """The goal's score after 0, 1 … `steps` equal shares of the pixels have changed, for each path.

    Ends are asked once for all maps of the images, the rest once for a map: with `keep` the curves of the last map stay
    in `given.cache`, for the next metric that asks for them.
    """
    known = {path: _recall(given, maps, (path, steps, goal)) for path in paths}
    wanted = [path for path in paths if known[path] is None]
    if wanted:
        inner = _inner(maps, given, wanted, steps, goal, batch_size)
        for path, middle in zip(wanted, inner, strict=True):
            ends = [image_scores(given, goal, batch_size), baseline_scores(given, goal, path.baseline, batch_size)]
            start, stop = reversed(ends) if path.reveal else ends
            known[path] = torch.cat([start[:, None], middle, stop[:, None]], 1)
            if keep:
                _remember(given, maps, (path, steps, goal), known[path])
    return [known[path] for path in paths]


def _inner(
    maps: Tensor, given: MetricInputs, paths: list[Path], steps: int, goal: str, batch_size: int
) -> list[Tensor]:
    """The curves without their ends, all paths in the same passes."""
    turns = {first: places(maps, first) for first in {path.first for path in paths}}
    bases = {path.baseline: baseline_images(given, path.baseline) for path in paths}
    each, pixels = steps - 1, maps[0].numel()
    counts = torch.tensor([(2 * k * pixels + steps) // (2 * steps) for k in range(1, steps)], dtype=torch.int32).to(
        maps.device
    )[:, None, None]

    def fill(i: int, start: int, stop: int, out: Tensor) -> None:
        for number, path in enumerate(paths):
            a, b = max(start - number * each, 0), min(stop - number * each, each)
            if a >= b:
                continue
            changed = (turns[path.first][i] < counts[a:b])[:, None]
            old, new = given.x[i], bases[path.baseline][i]
            if path.reveal:
                old, new = new, old
            here = number * each + a - start
            choose(changed, new, old, out[here : here + b - a])

    found = scores(given, GOALS[goal](given), each * len(paths), fill, batch_size)
    return list(found.view(len(maps), len(paths), each).unbind(1))


def _recall(given: MetricInputs, maps: Tensor, key: tuple) -> Tensor | None:
    """What was remembered of this very map; the stored map is kept alive, so its address is nobody else's."""
    stored = given.cache.get(("curve", *key))
    if stored is None or maps.is_inference():
        return None
    old, version, value = stored
    same = (
        old.data_ptr() == maps.data_ptr()
        and old.shape == maps.shape
        and old.stride() == maps.stride()
        and old.dtype == maps.dtype
        and old.device == maps.device
        and maps._version == version
    )
    return value if same else None


def _remember(given: MetricInputs, maps: Tensor, key: tuple, value: Tensor) -> None:
    if not maps.is_inference():
        given.cache["curve", *key] = (maps, maps._version, value)


def area(curve: Float[Tensor, "batch points"], axis: list[float]) -> Float[Tensor, "batch"]:
    """The area under curves by the trapezoid rule."""
    return torch.trapezoid(curve, torch.tensor(axis, dtype=curve.dtype).to(curve.device), dim=1)


def shares(steps: int, whole: float = 1.0) -> list[float]:
    """0 … `whole` in equal steps."""
    return [whole * k / steps for k in range(steps + 1)]


def increasing(values: Any, name: str, low: float, high: float, least: int = 1) -> tuple:
    """The values as a tuple, or `OptionError`: too few, not increasing, or outside of [low, high]."""
    values = tuple(values) if isinstance(values, Iterable) else (values,)
    fits = all(isinstance(v, (int, float)) and low <= v <= high for v in values)
    if not fits or len(values) < least or any(a >= b for a, b in pairwise(values)):
        raise OptionError(
            f"{name}={values!r} does not work; give {least} or more increasing numbers from {low:g} to {high:g}"
        )
    return values
