"""Which class of a model is which class of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from seewhy.core.cards import Capability
from seewhy.core.class_names import find_class, is_imagenet
from seewhy.data.base import Dataset
from seewhy.errors import OptionError, SeewhyError
from seewhy.models.adapter import VisionModel


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
        raise OptionError(f'{model.name} on {data.card.title}: {reason}; use target = "prediction" in [protocol]')
    return None


def _find_class(name: str, model_names: Sequence[str]) -> int:
    if name.strip().isdigit():  # a class that is called "7" is not the class number 7
        return list(model_names).index(name)
    return find_class(name, model_names)
