"""From what a user writes to a target: the one grammar of Python, the command line and plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from torch import Tensor

from seewhy.errors import TargetError
from seewhy.targets.against import Against
from seewhy.targets.base import PerImage, Target
from seewhy.targets.classes import ClassTarget, Rank, Truth, class_index
from seewhy.targets.detections import Detection
from seewhy.targets.functions import Custom, Similarity, embedding_norm, embedding_sum
from seewhy.targets.regions import Region

OneTarget: TypeAlias = int | str | Target | Callable[[Tensor], Tensor] | None
"""The model's answer (None), a class number or name, a word such as `"top-2"`, a `Target`, a function of the output."""

TargetLike: TypeAlias = OneTarget | Sequence[OneTarget] | Tensor | np.ndarray
"""One target for all images, or a list, tensor or array with one for each image."""

WORDS: dict[str, Callable[[], Target]] = {
    "embedding-sum": embedding_sum,
    "embedding-norm": embedding_norm,
    "truth": Truth,
}
"""Words that stand for a target; `top-1`, `top-2` … stand for a rank, everything else for a class."""


EmbedText: TypeAlias = Callable[[Sequence[str]], Tensor]
"""From prompts to unit vectors (prompts, dim) where the image embeddings are."""


def as_target(
    spec: TargetLike,
    names: Sequence[str] | None = None,
    has_logits: bool = True,
    embed_text: EmbedText | None = None,
) -> Target:
    """Make a `Target` of what a user writes.

    Args:
        spec: One of

            - `None`: the class that the model answers, or the sum of the embedding for a model without classes;
            - a class number, or a class name (one of the synonyms of a comma-separated name is enough);
            - `"top-2"`: the class that the model ranks second;
            - `"truth"`: the class that an image file's folder is named after;
            - `"embedding-sum"`, `"embedding-norm"`;
            - for a model of images and texts without class names, any other text: a prompt (`"a photo of a cat"`);
            - a function from the logits (of a model without classes: the embedding) to one number per image;
            - a `Target`;
            - a list, tensor or array of these, one for each image.
        names: The model's class names.
        has_logits: Whether the model gives class scores.
        embed_text: How a model of images and texts embeds prompts.

    Raises:
        TargetError: There is no such target.
        UnknownNameError: There is no class of that name; the message suggests the nearest.
    """
    if spec is None:
        return Rank(1) if has_logits else embedding_sum()
    if isinstance(spec, Target):
        return spec
    if isinstance(spec, bool):
        raise TargetError(f"{spec} is not a target; give a class number or name")
    if isinstance(spec, int):
        return ClassTarget((spec,))
    if isinstance(spec, str):
        return _parse(spec, names, embed_text)
    if callable(spec):
        on = "logits" if has_logits else "embedding"
        return Custom(spec, on=on, name=getattr(spec, "__name__", "custom"))
    if isinstance(spec, Tensor | np.ndarray | np.generic):
        return as_target(spec.tolist(), names, has_logits, embed_text)
    if isinstance(spec, list | tuple) and spec:
        return _for_each([as_target(each, names, has_logits, embed_text) for each in spec])
    kind = "an empty list" if isinstance(spec, list | tuple) else f"a {type(spec).__name__}"
    raise TargetError(f"{kind} is not a target; give a class number or name, a list or a callable")


def rank_of(word: str) -> int | None:
    """Return the 2 of `"top-2"` (`"top"` is `"top-1"`), None for every other word."""
    rank = re.fullmatch(r"top-?([0-9]*)", word.strip().lower())
    return int(rank[1] or 1) if rank else None


def _parse(word: str, names: Sequence[str] | None, embed_text: EmbedText | None) -> Target:
    key = word.strip().lower()
    if key in WORDS:
        return WORDS[key]()
    if (rank := rank_of(word)) is not None:
        return Rank(rank)
    if embed_text and not names and not re.fullmatch(r"-?[0-9]+", key):
        return Similarity(embed_text([word])[0], "cosine", word, kind="text")
    return ClassTarget((class_index(word, names),))


def _for_each(targets: list[Target]) -> Target:
    """Return one target for several images, as a single gather where all are classes."""
    if len(targets) == 1:
        return targets[0]
    indices = [
        target.index[0]
        for target in targets
        if isinstance(target, ClassTarget) and len(target.index) == 1 and target.kind == "class"
    ]
    if len(indices) == len(targets):
        return ClassTarget(tuple(indices))
    return PerImage(tuple(targets))


def tiled_rows(batch: int, n: int) -> list[int]:
    """Return the row numbers of `n` whole batches one after the other."""
    return list(range(batch)) * n


def as_region(target: Target) -> Target:
    """Return the target with each class in it as a region of a segmentation model."""
    return _convert(target, lambda index, rank: Region(index=index, rank=rank))


def as_detection(target: Target) -> Target:
    """Return the target with each class in it as a detection of an object detector."""
    return _convert(target, lambda index, rank: Detection(index=index, rank=rank))


def _convert(target: Target, make: Callable[[tuple[int, ...], int], Target]) -> Target:
    if isinstance(target, PerImage):
        return PerImage(tuple(_convert(each, make) for each in target.targets))
    if isinstance(target, Against):
        return replace(target, target=_convert(target.target, make))
    if isinstance(target, Rank):
        return make((), target.rank)
    return make(target.index, 1) if isinstance(target, ClassTarget) else target
