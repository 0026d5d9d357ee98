"""Shared helpers for perturbation-based metrics: write variants of each image, score them in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from seewhy.core.cards import Capability
from seewhy.core.maps import upcast
from seewhy.errors import OptionError
from seewhy.methods.base import images_per_pass
from seewhy.methods.baselines import BASELINE_IMAGES, check_baseline, starting_images
from seewhy.metrics.base import Measurement, Metric, MetricInputs, option
from seewhy.metrics.inputs import ModelInputs
from seewhy.models.instrument.hooks import untouched
from seewhy.targets import Output, Target, as_probability

BASELINE_HELP = f"what stands for removed pixels: {', '.join(BASELINE_IMAGES)}, or a color (white, #7f7f7f)"
NOT_FINITE = "the model's score of a perturbed image is NaN or infinite"


class WriteVariants(Protocol):
    """Writes variants `start` … `stop` − 1 of image `image` of the batch into `out`."""

    def __call__(self, image: int, start: int, stop: int, out: Tensor, /) -> None:
        """Write them."""


@dataclass(kw_only=True, eq=False)
class ModelMetric(Metric):
    """A metric that scores variants of the image by the model; subclasses implement `compare`."""

    batch_size: int = option(
        default=32, help="images per forward pass (memory against speed; the values are the same)", at_least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.options.items():
            if isinstance(value, list):  # plans are TOML: lists; keys of `MetricInputs.cached` must hash
                setattr(self, name, tuple(value))
        if "baseline" in self.options:
            check_baseline(self.options["baseline"])

    def compare(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the numbers; NaN where the model's scores are not finite."""
        raise NotImplementedError

    def score(self, maps: Float[Tensor, "batch rows cols"], inputs: MetricInputs) -> Measurement:
        """Compute the numbers, with a reason where the model's scores are not finite."""
        measurement = self.compare(maps, inputs)
        finite = torch.isfinite(torch.stack([measurement.value, *measurement.parts.values()])).all(0).tolist()
        measurement.reasons = {i: NOT_FINITE for i, ok in enumerate(finite) if not ok}
        return measurement


def score_variants(
    inputs: MetricInputs, read_out: Target, n: int, write_variants: WriteVariants, batch_size: int
) -> Float64[Tensor, "batch n"]:
    """Return the score of `n` variants of each image; the model is left as it came.

    Passes hold `batch_size` variants, of as many images as that takes. Autocast is switched off: what a small
    perturbation changes is less than what bfloat16 rounds off.

    Args:
        inputs: The model, the images and the target.
        read_out: What is read off the model for each variant.
        n: How many variants of each image.
        write_variants: Writes some variants of an image.
        batch_size: Variants per forward pass, see `images_per_pass`.
    """
    model, x, target = inputs.model_inputs
    target.check(len(x), model.classes)
    if not n:
        return torch.empty(len(x), 0, dtype=torch.float64, device=x.device)
    scores = []
    with (
        torch.no_grad(),
        torch.autocast(x.device.type, enabled=False),
        model.shape_error_context(x),
        untouched(model.module),
    ):
        for pieces in _passes(len(x), n, images_per_pass(batch_size, x)):
            rows = [image for image, start, stop in pieces for _ in range(start, stop)]
            variants = x.new_empty(len(rows), *x.shape[1:])
            end = 0
            for image, start, stop in pieces:
                begin, end = end, end + stop - start
                write_variants(image, start, stop, variants[begin:end])
            scores.append(upcast(read_out.at(rows).score(model.run(variants))))
    return torch.cat(scores).double().view(len(x), n)


def _passes(batch: int, n: int, batch_size: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield for each pass (image, first variant, one past the last) of the images that it holds, image after image."""
    for first in range(0, batch * n, batch_size):
        last = min(first + batch_size, batch * n)
        yield [(i, max(first - i * n, 0), min(last - i * n, n)) for i in range(first // n, -(-last // n))]


def select_pixels(mask: Bool[Tensor, "..."], inside: Tensor, outside: Tensor, out: Tensor) -> None:
    """Write `torch.where(mask, inside, outside)` into `out`, bit by bit.

    As exact, and on a CPU several times as fast as `torch.where`, which a curve of 224 steps spends much of its time
    on with a small model.
    """
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[out.element_size()]
    inside, outside = inside.view(bits), outside.view(bits)
    torch.bitwise_and(mask.to(bits).neg_(), inside ^ outside, out=out.view(bits)).bitwise_xor_(outside)


# ── what is read off the model ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class IsTop1(Target):
    """1 where no class scores above the target's, else 0: the model still answers the target.

    Attributes:
        of: A class target.
    """

    of: Target
    kind = "class"

    def score(self, output: Output) -> Float[Tensor, "batch"]:
        """Return 1 or 0 for each image, NaN where the scores are not finite."""
        logits, own = output.require(Capability.LOGITS), self.of.score(output)
        finite = torch.isfinite(logits).all(1) & torch.isfinite(own)
        return (own >= logits.amax(1)).float().masked_fill(~finite, torch.nan)

    def at(self, rows: Sequence[int]) -> Target:
        """Return the target of these rows."""
        return IsTop1(self.of.at(rows))


READOUTS: dict[str, Callable[[ModelInputs], Target]] = {
    "logit": lambda inputs: inputs.target,
    "probability": lambda inputs: as_probability(inputs.target, inputs.model),
    "accuracy": lambda inputs: IsTop1(inputs.target),
}
"""What is read off the model: the target's score, its probability (for classes), or whether it is the answer."""


def baseline_images(inputs: MetricInputs, baseline: str) -> Float[Tensor, "batch channels height width"]:
    """Return the images with everything removed; computed once for all maps, in float32 at least."""

    def compute() -> Tensor:
        model, x, _ = inputs.model_inputs
        with torch.autocast(x.device.type, enabled=False):
            return starting_images(model, upcast(x), baseline).to(x)

    return inputs.cached(("baseline", baseline), compute)


def image_scores(inputs: MetricInputs, read_out: str, batch_size: int) -> Float64[Tensor, "batch"]:
    """Return the scores of the images as they are; computed once for all maps."""
    compute = partial(_endpoint, inputs, read_out, None, batch_size)
    return inputs.cached(("endpoint", read_out, None), compute)


def baseline_scores(inputs: MetricInputs, read_out: str, baseline: str, batch_size: int) -> Float64[Tensor, "batch"]:
    """Return the scores of the images with everything removed; computed once for all maps."""
    compute = partial(_endpoint, inputs, read_out, baseline, batch_size)
    return inputs.cached(("endpoint", read_out, baseline), compute)


def _endpoint(inputs: MetricInputs, read_out: str, baseline: str | None, batch_size: int) -> Float64[Tensor, "batch"]:
    images = inputs.model_inputs.x if baseline is None else baseline_images(inputs, baseline)

    def write_image(image: int, start: int, stop: int, out: Tensor) -> None:
        out.copy_(images[image : image + 1])

    return score_variants(inputs, READOUTS[read_out](inputs.model_inputs), 1, write_image, batch_size)[:, 0]


def area(curve: Float[Tensor, "batch points"], axis: Sequence[float]) -> Float[Tensor, "batch"]:
    """Return the area under each curve by the trapezoid rule."""
    return torch.trapezoid(curve, torch.tensor(axis, dtype=curve.dtype).to(curve.device), dim=1)


def shares(n_steps: int, whole: float = 1.0) -> list[float]:
    """Return 0 … `whole` in equal steps."""
    return [whole * k / n_steps for k in range(n_steps + 1)]


def check_increasing(values: Any, name: str, low: float, high: float, least: int = 1) -> tuple[float, ...]:
    """Return the values as a tuple.

    Args:
        values: The value of an option.
        name: The option.
        low: The smallest value that is accepted.
        high: The largest value that is accepted.
        least: How many there must be at least.

    Raises:
        OptionError: When there are too few, they do not increase, or one is outside of [low, high].
    """
    values = tuple(values) if isinstance(values, Iterable) else (values,)
    in_range = all(isinstance(v, (int, float)) and low <= v <= high for v in values)
    if not in_range or len(values) < least or any(a >= b for a, b in pairwise(values)):
        raise OptionError(
            f"{name}={values!r} is not accepted; pass {least} or more increasing numbers from {low:g} to {high:g}"
        )
    return values
