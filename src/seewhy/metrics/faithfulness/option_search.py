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
class Choice:
    """What `choose_option` found.

    Attributes:
        value: the best one; of equals the first.
        table: for each value the mean of the metric over the images.
        values: for each value, the metric of each image.
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
) -> Choice:
    """The value of a method's option whose maps score best on the images.

        sigma = choose_option(model, model.preprocess_images(photos)).value

    The paper takes 200 images and does not give its candidates; ours are fractions of the tokens' range.

    Args:
        model, x, target: as for a method; one target for all images, or one for each.
        method, option, among: the method's name, the option, and the values to try.
        metric: default `Fidelity()`; another that asks for nothing but the model.
        options: further options of the method.

    Raises:
        OptionError: nothing to choose from, or a metric without a direction or without a value for any image.
        UnknownNameError, RequirementError: no such method, or it cannot serve the model.
    """
    metric, cls, among = metric or Fidelity(), METHODS[method], list(among)
    if not among or metric.card.higher_is_better is None:
        raise OptionError(
            f"there is no best of {len(among)} values by {metric.card.title}; "
            "give at least one value, and a metric that has a direction"
        )
    given, values = MetricInputs(model=model, x=x, target=target), {}
    for value in among:
        maps = resize_maps(cls(model, **{option: value}, **options)(x, given.target), tuple(x.shape[-2:]))
        values[value] = metric(maps, given)
    table = {value: found.nanmean().item() for value, found in values.items()}
    sign = 1 if metric.card.higher_is_better else -1
    scored = [value for value in among if not torch.isnan(values[value]).all()]
    if not scored:
        raise OptionError(f"{metric.card.title} has no value for any image; call it with measure(…) for the reasons")
    return Choice(max(scored, key=lambda value: sign * table[value]), table, values)
