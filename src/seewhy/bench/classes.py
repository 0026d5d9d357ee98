"""Match the classes of a dataset with those of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from seewhy.bench.target_words import FORMER_TARGETS, LABEL_TARGETS
from seewhy.core.cards import Capability
from seewhy.core.class_names import find_class, is_imagenet
from seewhy.data.base import Dataset
from seewhy.errors import OptionError, SeewhyError, suggestion
from seewhy.models.adapter import VisionModel
from seewhy.targets import ClassTarget, as_target


def match_classes(data: Dataset, model: VisionModel, required: bool = True) -> list[int] | None:
    """Find the model's class for each class of the dataset.

    By number where names are missing or both lists are ImageNet's, whoever spelled them; else by name.

    Args:
        data: The dataset.
        model: The model.
        required: Whether it is an error if the classes do not match.

    Returns:
        The model's class index for each class of the dataset; None if they do not match or the model has no classes.

    Raises:
        OptionError: When the classes do not match but are required to.
    """
    if Capability.LOGITS not in model.capabilities:
        return None
    model_names, data_names = model.class_names, data.class_names
    try:
        if model_names and data_names:
            if is_imagenet(model_names) and is_imagenet(data_names):
                return list(range(len(data_names)))
            return [_find_class(name, model_names) for name in data_names]
    except (SeewhyError, ValueError) as error:
        reason = f"the dataset's classes are not the model's ({error})"
    else:
        if data_names and model.classes == len(data_names):
            return list(range(len(data_names)))
        reason = (
            f"the dataset has {len(data_names)} classes, the model {model.classes}, and they cannot be matched by name"
        )
    if required:
        raise OptionError(f'{model.name} on {data.card.title}: {reason}; use target = "top-1" in [protocol]')
    return None


class NamedClass(NamedTuple):
    """The one class that a plan explains in every image.

    Attributes:
        label: The class as the dataset counts; None if the dataset does not have it.
        class_index: The class as the model counts; None for a model without classes.
        name: Name of the class for people.
    """

    label: int | None
    class_index: int | None
    name: str


def find_named_class(name: str, data: Dataset, model: VisionModel, classes: list[int] | None) -> NamedClass:
    """Find the class that a plan names, as `seewhy.explain` finds it; without classes of the model, the dataset's.

    Args:
        name: Name or number of the class.
        data: The dataset.
        model: The model.
        classes: Result of `match_classes`.

    Raises:
        OptionError: When there is no such class; the message suggests the nearest names and words.
    """
    has_classes = Capability.LOGITS in model.capabilities
    names = (model.class_names if has_classes else data.class_names) or ()
    try:
        target = as_target(name, names)
        target.check(1, model.classes if has_classes else len(names))
    except SeewhyError as error:
        owner = model.name if has_classes else data.card.title
        words = ", ".join((*LABEL_TARGETS, "top-1"))
        near = suggestion(name, (*LABEL_TARGETS, *FORMER_TARGETS, *names))
        advice = near if near.endswith("?") else f" ({error})"
        raise OptionError(f"target = {name!r} is none of {words} …, nor a class of {owner}{advice}") from None
    assert isinstance(target, ClassTarget)  # the other words have been told apart by the plan's format
    index, label = target.index[0], target.label(0, names)
    if not has_classes:
        return NamedClass(index, None, label)
    return NamedClass(classes.index(index) if classes is not None and index in classes else None, index, label)


def _find_class(name: str, model_names: Sequence[str]) -> int:
    if name.strip().isdigit():  # a class that is called "7" is not the class number 7
        return list(model_names).index(name)
    return find_class(name, model_names)
