"""Choosing an option of a method by fidelity on a few images: how the CDAM paper picks the σ of Smooth CDAM."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from seewhy.core.maps import resize_maps
from seewhy.errors import OptionError
from seewhy.methods.base import METHODS
from seewhy.metrics.base import Metric, MetricInputs
from seewhy.metrics.faithfulness.fidelity import Fidelity
from seewhy.models.adapter import VisionModel
from seewhy.targets import TargetLike

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, eq=False)
class OptionSearch:
    """The result of `choose_option`.

    Attributes:
        value: The best value of the option; of equals the first.
        table: For each value the mean of the metric over the images.
        values: For each value, the metric of each image.
    """

    value: Any
    table: dict[Any, float]
    values: dict[Any, Float[Tensor, "images"]] = field(repr=False)


def choose_option(
    model: VisionModel,
    x: Float[Tensor, "images channels height width"],
    target: TargetLike = None,
    *,
    method: str = "smooth_cdam",
    option: str = "sigma",
    among: Iterable[Any] = SIGMAS,
    metric: Metric | None = None,
    **options: Any,
) -> OptionSearch:
    """Find the value of a method's option whose maps score best on some images.

        sigma = choose_option(model, model.preprocess_images(images)).value

    The paper takes 200 images and does not give its candidates; ours are fractions of the tokens' range.

    Args:
        model: The model.
        x: The images, preprocessed.
        target: One target for all images, or one for each.
        method: The method's name.
        option: The option's name.
        among: The values to try.
        metric: By default `Fidelity()`; another that asks for nothing but the model.
        **options: Further options of the method.

    Raises:
        OptionError: When there is nothing to choose from, or the metric has no direction or no value for any image.
        UnknownNameError: When there is no such method.
        RequirementError: When the method cannot serve the model.
    """
    metric, method_class, candidates = metric or Fidelity(), METHODS[method], list(among)
    if not candidates or metric.card.higher_is_better is None:
        raise OptionError(
            f"there is no best of {len(candidates)} values by {metric.card.title}; "
            "give at least one value, and a metric that has a direction"
        )
    inputs = MetricInputs(model=model, x=x, target=target)
    size = (x.shape[-2], x.shape[-1])
    values = {}
    for value in candidates:
        configured = method_class(model, **{option: value}, **options)
        values[value] = metric(resize_maps(configured(x, inputs.target), size), inputs)
    table = {value: scores.nanmean().item() for value, scores in values.items()}
    scored = [value for value in candidates if not torch.isnan(values[value]).all()]
    if not scored:
        raise OptionError(f"{metric.card.title} has no value for any image; call it with measure(…) for the reasons")
    sign = 1 if metric.card.higher_is_better else -1
    return OptionSearch(max(scored, key=lambda value: sign * table[value]), table, values)
